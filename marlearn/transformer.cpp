// What stands between a transformer block's products, one pass each instead of a dozen: GELU with dropout, softmax with
// dropout, dropout, SiLU, LayerNorm with what follows it, and their gradients. For processors with bf16 in AVX-512.
//
// Nothing random is stored: a gradient makes the same bits again from the same two numbers, as `random_bits` in lesson 06
// does in many passes. Numbers are bf16 in memory and float32 in between. Compiled and loaded by `load_cpp` in transformer.py.
#include "simd.h"
#include <algorithm>
#include <vector>

// The share of a standard normal distribution below x, and e^(-x^2/2); erf as in Abramowitz & Stegun 7.1.26; 14 bits of 1/x are enough for bf16
static void normal(__m512 x, __m512& below, __m512& bell) {
    const __m512 size = _mm512_mul_ps(_mm512_abs_ps(x), number(0.707106781f)), t = _mm512_rcp14_ps(_mm512_fmadd_ps(size, number(0.3275911f), number(1.f)));
    bell = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(size, number(9.f), _CMP_NGT_UQ), exponential(_mm512_fnmadd_ps(size, size, _mm512_setzero_ps())));      // farther out it is zero
    __m512 sum = number(1.061405429f);
    for (float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) sum = _mm512_fmadd_ps(sum, t, number(c));
    const __m512 half_tail = _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(sum, t), bell), number(.5f));
    below = _mm512_mask_sub_ps(half_tail, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GE_OQ), number(1.f), half_tail);
}

struct Dropout {                                           // as `_Dropout` in transformer.py fills it in
    uint32_t start[2];                                     // `random_bits` begins with them
    int32_t least;                                         // a number of 16 bits that is less: this element becomes zero
    float factor;                                          // for those that stay
};

// Which of the elements from..from+n stay; `room` holds n + 64 numbers
static const int16_t* bits(const Dropout& d, int64_t from, int64_t n, int16_t* room) {
    const int64_t first = from/2 & ~15;                    // each counter serves two elements, sixteen counters are mixed at a time
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    for (int64_t c = first; 2*c < from + n; c += 16) {
        const __m512i column = _mm512_add_epi32(_mm512_mullo_epi32(_mm512_add_epi32(lanes, _mm512_set1_epi32(c & 1023)), _mm512_set1_epi32(0x85ebca77)), _mm512_set1_epi32(d.start[1]));
        __m512i x = _mm512_xor_si512(column, _mm512_set1_epi32(uint32_t(c >> 10)*0x9e3779b9u + d.start[0]));
        x = _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 16)), _mm512_set1_epi32(0x85ebca6b));
        x = _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 13)), _mm512_set1_epi32(0xc2b2ae35));
        _mm512_storeu_si512(room + 2*(c - first), x);
    }
    return room + (from - 2*first);
}
static __m512 dropped(const Dropout& d, __m512 v, const int16_t* bits) {
    return _mm512_maskz_mul_ps(_mm256_cmpge_epi16_mask(_mm256_loadu_si256((const __m256i*)bits), _mm256_set1_epi16(d.least)), v, number(d.factor));
}

// All elements in pieces that stay in the nearest cache; work(place, bits of that place) is what becomes of the 16 numbers there
static const int64_t PIECE = 2048;
template<class Work>
static void pieces(bf16* out, int64_t n, const Dropout* d, int threads, Work work) {
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t from = 0; from < n; from += PIECE) {
        int16_t room[PIECE + 64];
        const int64_t to = std::min(n, from + PIECE);
        const int16_t* b = d ? bits(*d, from, to - from, room) : room;
        int64_t i = from;
        for (; i + 32 <= to; i += 32)                      // whole lines of memory at a time
            _mm512_storeu_si512(out + i, (__m512i)_mm512_cvtne2ps_pbh(work(i + 16, b + (i + 16 - from), 0xffff), work(i, b + (i - from), 0xffff)));
        for (; i < to; i += 16) store(out + i, work(i, b + (i - from), upto(to - i)), upto(to - i));
    }
}

// LayerNorm, for x in float32 or bf16. `from` and `to` read and write 16 numbers of either
static __m512 from(const float* p) { return _mm512_loadu_ps(p); }
static __m512 from(const bf16* p) { return load(p); }
static void to(float* p, __m512 low, __m512 high) { _mm512_storeu_ps(p, low); _mm512_storeu_ps(p + 16, high); }
static void to(bf16* p, __m512 low, __m512 high) { _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(high, low)); }      // whole lines of memory at a time
// Rows farther on, asked for before they are needed: several arrays at once are more than the processor foresees
static const int AHEAD = 8;
template<class T> static void ahead(const T* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
template<class T> static void ahead(const T* row, int64_t stride, int columns) { for (int j = 0; j < columns; j += 64/(int)sizeof(T)) ahead(row + AHEAD*stride + j); }
template<class T, class Work>
static void row(T* out, int columns, Work work) { for (int j = 0; j < columns; j += 32) { const __m512 low = work(j); to(out + j, low, work(j + 16)); } }

template<class T>
static __m512 norm_row(const T* x, float* n, int columns, float eps) {      // n: with mean 0 and variance 1; returned: what that took to multiply with
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int j = 0; j < columns; j += 16) sum = _mm512_add_ps(sum, from(x + j));
    const __m512 mean = number(_mm512_reduce_add_ps(sum)/columns);
    for (int j = 0; j < columns; j += 16) { const __m512 v = _mm512_sub_ps(from(x + j), mean); _mm512_storeu_ps(n + j, v); squares = _mm512_fmadd_ps(v, v, squares); }
    const __m512 factor = number(1/std::sqrt(_mm512_reduce_add_ps(squares)/columns + eps));
    for (int j = 0; j < columns; j += 16) _mm512_storeu_ps(n + j, _mm512_mul_ps(_mm512_loadu_ps(n + j), factor));
    return factor;
}

template<class T>
static void norm(const T* x, const float* weight, const float* bias, const bf16* shift, const bf16* scale, bf16* out, int64_t rows, int columns, int64_t stride, float eps, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        static thread_local std::vector<float> room; room.resize(columns);
        float* n = room.data();
        ahead(x + i*columns, columns, columns);
        if (scale) { ahead(scale + i*stride, stride, columns); ahead(shift + i*stride, stride, columns); }
        norm_row(x + i*columns, n, columns, eps);
        row(out + i*columns, columns, [&](int j) {
            __m512 v = _mm512_loadu_ps(n + j);
            if (weight) v = _mm512_fmadd_ps(v, _mm512_loadu_ps(weight + j), _mm512_loadu_ps(bias + j));
            return scale ? _mm512_add_ps(_mm512_fmadd_ps(v, from(scale + i*stride + j), v), from(shift + i*stride + j)) : v;
        });
    }
}

// `g`: of the output, and so of shift. Weight and bias: one sum over rows for each thread
template<class T>
static void norm_gradient(const T* x, const float* weight, const float* bias, const bf16* scale, const bf16* g, T* gx, float* gweight, float* gbias, bf16* gscale,
                          int64_t rows, int columns, int64_t stride, float eps, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++) {
        std::vector<float> room(2*columns);
        float *n = room.data(), *gn = n + columns, *gw = gweight + (int64_t)t*columns, *gb = gbias + (int64_t)t*columns;
        for (int64_t i = rows*t/threads; i < rows*(t + 1)/threads; i++) {
            ahead(x + i*columns, columns, columns); ahead(g + i*columns, columns, columns);
            if (scale) ahead(scale + i*stride, stride, columns);
            const __m512 factor = norm_row(x + i*columns, n, columns, eps);
            if (scale) row(gscale + i*columns, columns, [&](int j) {
                const __m512 v = _mm512_loadu_ps(n + j);
                return _mm512_mul_ps(from(g + i*columns + j), weight ? _mm512_fmadd_ps(v, _mm512_loadu_ps(weight + j), _mm512_loadu_ps(bias + j)) : v);
            });
            __m512 sum = _mm512_setzero_ps(), along = _mm512_setzero_ps();
            for (int j = 0; j < columns; j += 16) {
                const __m512 v = _mm512_loadu_ps(n + j); __m512 d = from(g + i*columns + j);
                if (scale) d = _mm512_fmadd_ps(d, from(scale + i*stride + j), d);
                if (weight) {
                    _mm512_storeu_ps(gw + j, _mm512_fmadd_ps(d, v, _mm512_loadu_ps(gw + j))); _mm512_storeu_ps(gb + j, _mm512_add_ps(d, _mm512_loadu_ps(gb + j)));
                    d = _mm512_mul_ps(d, _mm512_loadu_ps(weight + j));
                }
                _mm512_storeu_ps(gn + j, d); sum = _mm512_add_ps(sum, d); along = _mm512_fmadd_ps(d, v, along);
            }
            const __m512 mean = number(_mm512_reduce_add_ps(sum)/columns), slope = number(_mm512_reduce_add_ps(along)/columns);
            row(gx + i*columns, columns, [&](int j) { return _mm512_mul_ps(factor, _mm512_sub_ps(_mm512_sub_ps(_mm512_loadu_ps(gn + j), mean), _mm512_mul_ps(_mm512_loadu_ps(n + j), slope))); });
        }
    }
}

extern "C" {

int usable() { return has_bf16(); }

void dropout(const bf16* x, bf16* out, int64_t n, const Dropout* d, int threads) {
    pieces(out, n, d, threads, [=](int64_t i, const int16_t* b, __mmask16 m) { return dropped(*d, load(x + i, m), b); });
}

void gelu_dropout(const bf16* x, bf16* out, int64_t n, const Dropout* d, int threads) {
    pieces(out, n, d, threads, [=](int64_t i, const int16_t* b, __mmask16 m) {
        __m512 v = load(x + i, m), below, bell; normal(v, below, bell);
        return dropped(*d, _mm512_mul_ps(v, below), b);
    });
}

// `g`: of the output, the result: of the input; d(x below(x))/dx = below + x bell/sqrt(2 pi). `again`, if not null: the output once more
void gelu_dropout_gradient(const bf16* x, const bf16* g, bf16* out, bf16* again, int64_t n, const Dropout* d, int threads) {
    pieces(out, n, d, threads, [=](int64_t i, const int16_t* b, __mmask16 m) {
        __m512 v = load(x + i, m), below, bell; normal(v, below, bell);
        if (again) store(again + i, dropped(*d, _mm512_mul_ps(v, below), b), m);
        return _mm512_mul_ps(dropped(*d, load(g + i, m), b), _mm512_fmadd_ps(_mm512_mul_ps(v, bell), number(0.398942280f), below));
    });
}

void silu(const bf16* x, bf16* out, int64_t n, const Dropout*, int threads) {
    pieces(out, n, nullptr, threads, [=](int64_t i, const int16_t*, __mmask16 m) { const __m512 v = load(x + i, m); return _mm512_mul_ps(v, sigmoid(v)); });
}

void silu_gradient(const bf16* x, const bf16* g, bf16* out, bf16* again, int64_t n, const Dropout*, int threads) {
    pieces(out, n, nullptr, threads, [=](int64_t i, const int16_t*, __mmask16 m) {
        const __m512 v = load(x + i, m), s = sigmoid(v), y = _mm512_mul_ps(v, s);
        if (again) store(again + i, y, m);
        return _mm512_mul_ps(load(g + i, m), _mm512_fmadd_ps(y, _mm512_sub_ps(number(1.f), s), s));          // s + y (1 - s)
    });
}

// Each row's softmax(scale x); float32 in `p`, not yet divided by the sum that is returned
static float softmax_row(const bf16* x, float* p, int columns, float scale) {
    __m512 most = number(-INFINITY), sum = _mm512_setzero_ps();
    for (int j = 0; j < columns; j += 16) { const __mmask16 m = upto(columns - j); most = _mm512_mask_max_ps(most, m, most, load(x + j, m)); }
    const __m512 shift = number(scale*_mm512_reduce_max_ps(most));
    for (int j = 0; j < columns; j += 16) {
        const __mmask16 m = upto(columns - j);
        const __m512 e = _mm512_maskz_mov_ps(m, exponential(_mm512_fmsub_ps(load(x + j, m), number(scale), shift)));
        _mm512_storeu_ps(p + j, e); sum = _mm512_add_ps(sum, e);
    }
    return _mm512_reduce_add_ps(sum);
}

void softmax_dropout(const bf16* x, bf16* out, int64_t rows, int columns, float scale, const Dropout* d, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        static thread_local std::vector<float> p; static thread_local std::vector<int16_t> room;
        p.resize(columns + 16); room.resize(columns + 64);
        const int16_t* b = bits(*d, i*columns, columns, room.data());
        const __m512 share = number(1/softmax_row(x + i*columns, p.data(), columns, scale));
        for (int j = 0; j < columns; j += 16) store(out + i*columns + j, dropped(*d, _mm512_mul_ps(_mm512_loadu_ps(p.data() + j), share), b + j), upto(columns - j));
    }
}

// With p the softmax and g what dropout lets through: scale p (g - sum of g p); `again` as above
void softmax_dropout_gradient(const bf16* x, const bf16* g, bf16* out, bf16* again, int64_t rows, int columns, float scale, const Dropout* d, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        static thread_local std::vector<float> p, let; static thread_local std::vector<int16_t> room;
        p.resize(columns + 16); let.resize(columns + 16); room.resize(columns + 64);
        const int16_t* b = bits(*d, i*columns, columns, room.data());
        const float share = 1/softmax_row(x + i*columns, p.data(), columns, scale);
        __m512 sum = _mm512_setzero_ps();
        for (int j = 0; j < columns; j += 16) {
            const __m512 v = dropped(*d, load(g + i*columns + j, upto(columns - j)), b + j);
            _mm512_storeu_ps(let.data() + j, v); sum = _mm512_fmadd_ps(v, _mm512_loadu_ps(p.data() + j), sum);
            if (again) store(again + i*columns + j, dropped(*d, _mm512_mul_ps(_mm512_loadu_ps(p.data() + j), number(share)), b + j), upto(columns - j));
        }
        const __m512 mean = number(_mm512_reduce_add_ps(sum)*share), factor = number(scale*share);
        for (int j = 0; j < columns; j += 16)
            store(out + i*columns + j, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(p.data() + j), factor), _mm512_sub_ps(_mm512_loadu_ps(let.data() + j), mean)), upto(columns - j));
    }
}

// Each column's sum
void column_sums(const bf16* x, float* out, int64_t rows, int64_t columns, int threads) {
    std::vector<float> sums(threads*columns);
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++) {
        float* s = sums.data() + t*columns;
        const int64_t first = rows*t/threads, last = rows*(t + 1)/threads;
        for (int64_t i = first; i < last; i += 4) for (int64_t j = 0; j < columns; j += 16) {
            const __mmask16 m = upto(columns - j);
            __m512 sum = _mm512_maskz_loadu_ps(m, s + j);
            for (int64_t k = i; k < std::min(last, i + 4); k++) { ahead(x + (k + AHEAD)*columns + j); sum = _mm512_add_ps(sum, load(x + k*columns + j, m)); }
            _mm512_mask_storeu_ps(s + j, m, sum);
        }
    }
    for (int64_t j = 0; j < columns; j++) { out[j] = 0; for (int t = 0; t < threads; t++) out[j] += sums[t*columns + j]; }
}

// Past the caches where there is much: it is read much later
void to_float(const bf16* x, float* out, int64_t n, int threads) {
    const bool past = n > 1 << 20 && (uintptr_t)out % 64 == 0;
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t from = 0; from < n; from += PIECE) {
        for (int64_t i = from; i < std::min(n, from + PIECE); i += 16) {
            const __mmask16 m = upto(n - i);
            if (past && m == 0xffff) _mm512_stream_ps(out + i, load(x + i)); else _mm512_mask_storeu_ps(out + i, m, load(x + i, m));
        }
        _mm_sfence();
    }
}

// LayerNorm times `weight` plus `bias`, then times 1 + scale plus shift (each pair may be missing), for columns in multiples of 32; rows of shift and scale lie `stride` apart
void norm_float(const float* x, const float* weight, const float* bias, const bf16* shift, const bf16* scale, bf16* out, int64_t rows, int columns, int64_t stride, float eps, int threads) {
    norm(x, weight, bias, shift, scale, out, rows, columns, stride, eps, threads);
}
void norm_half(const bf16* x, const float* weight, const float* bias, const bf16* shift, const bf16* scale, bf16* out, int64_t rows, int columns, int64_t stride, float eps, int threads) {
    norm(x, weight, bias, shift, scale, out, rows, columns, stride, eps, threads);
}
void norm_float_gradient(const float* x, const float* weight, const float* bias, const bf16* scale, const bf16* g, float* gx, float* gweight, float* gbias, bf16* gscale, int64_t rows, int columns, int64_t stride, float eps, int threads) {
    norm_gradient(x, weight, bias, scale, g, gx, gweight, gbias, gscale, rows, columns, stride, eps, threads);
}
void norm_half_gradient(const bf16* x, const float* weight, const float* bias, const bf16* scale, const bf16* g, bf16* gx, float* gweight, float* gbias, bf16* gscale, int64_t rows, int columns, int64_t stride, float eps, int threads) {
    norm_gradient(x, weight, bias, scale, g, gx, gweight, gbias, gscale, rows, columns, stride, eps, threads);
}

}
