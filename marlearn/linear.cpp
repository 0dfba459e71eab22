// A linear layer that learns (`_HalfLinear` in lesson 06), for processors that multiply bf16 in AVX-512: its product, the gradient of
// what enters it, and the gradient of its weights and bias.
//
// The processor multiplies *pairs* of bf16 that lie side by side, so one of the two matrices is packed: panels of 32 columns, in them
// pair by pair (`pack`). A matrix library packs as well, but it has to ask each time what it is given and returns bf16 from
// everything. Here float32 weights are packed as they are read, and the gradient of weights, whose sums run over thousands of rows,
// comes out in float32. What is needed next is called from memory line by line while the processor multiplies (`Ahead`); asked for
// all at once, lines would make it wait.
//
// Compiled and loaded by `load_cpp` in transformer.py. Sums are float32, in the same order for any number of threads.
#include "simd.h"
#include <algorithm>
#include <omp.h>
#include <vector>

static const int WIDE = 32;                                // columns of a panel

static inline __mmask32 upto32(int left) { return left < 32 ? (1u << left) - 1 : 0xffffffff; }

static bf16* aligned(std::vector<bf16>& room, size_t numbers) { // to lines of memory; of the thread that calls, kept for the next call
    room.resize(numbers + 32);
    return room.data() + (64 - (uintptr_t)room.data() % 64)/2 % 32;
}

// The numbers of two rows side by side: 32 pairs
static inline void pair(__m512i one, __m512i two, __m512i& left, __m512i& right) {
    alignas(64) static const uint16_t ORDER[] = {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i order = _mm512_load_si512(ORDER);
    left = _mm512_permutex2var_epi16(one, order, two); right = _mm512_permutex2var_epi16(one, _mm512_add_epi16(order, _mm512_set1_epi16(16)), two);
}

struct Ahead {                                             // lines of memory, asked for one by one
    const bf16* row; int64_t stride; int lines; int64_t rows; int line;
    void next() {
        if (rows <= 0) return;
        _mm_prefetch((const char*)(row + line*WIDE), _MM_HINT_T1);
        if (++line == lines) { line = 0; row += stride; rows--; }
    }
};

// --- rows times weights: the layer itself, and the gradient of what enters it ------------------------------------------------

// Panel p of weights (inputs, outputs)
static void pack(const float* w, int inputs, int outputs, int p, bf16* to) {
    const __mmask16 m0 = upto(outputs - p*WIDE), m1 = upto(std::max(0, outputs - p*WIDE - 16));
    const float* from = w + p*WIDE;
    for (int k = 0; k < inputs; k += 2, from += 2*outputs, to += 2*WIDE) {
        const auto row = [=](const float* r) { return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(m1, r + 16), _mm512_maskz_loadu_ps(m0, r)); };
        __m512i left, right; pair(row(from), row(from + outputs), left, right);
        _mm512_store_si512(to, left); _mm512_store_si512(to + WIDE, right);
    }
}

// 16 x 16 numbers of 32 bits, rows to columns: in pairs, in fours, then in lanes of four
static inline void turn(__m512i* r) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) { t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]); t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]); }
    for (int i = 0; i < 16; i += 4) for (int h = 0; h < 2; h++) { r[i + 2*h] = _mm512_unpacklo_epi64(t[i + h], t[i + 2 + h]); r[i + 2*h + 1] = _mm512_unpackhi_epi64(t[i + h], t[i + 2 + h]); }
    for (int c = 0; c < 4; c++) {
        const __m512i a = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88), b = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88), d = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd), e = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
        t[c] = _mm512_shuffle_i32x4(a, b, 0x88); t[4 + c] = _mm512_shuffle_i32x4(d, e, 0x88); t[8 + c] = _mm512_shuffle_i32x4(a, b, 0xdd); t[12 + c] = _mm512_shuffle_i32x4(d, e, 0xdd);
    }
    for (int i = 0; i < 16; i++) r[i] = t[i];
}

// and of weights (outputs, inputs), whose pairs lie side by side already
static void pack_turned(const float* w, int inputs, int outputs, int p, bf16* to) {
    for (int k = 0; k < inputs; k += 32) for (int half = 0; half < WIDE; half += 16) {
        const __mmask16 m0 = upto(inputs - k), m1 = upto(std::max(0, inputs - k - 16));
        __m512i pairs[16];
        for (int o = 0; o < 16; o++) {
            const int row = p*WIDE + half + o; const bool there = row < outputs;
            const float* from = w + (int64_t)row*inputs + k;
            pairs[o] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(there ? m1 : 0, from + 16), _mm512_maskz_loadu_ps(there ? m0 : 0, from));
        }
        turn(pairs);
        for (int i = 0; i < std::min(16, (inputs - k)/2); i++) _mm512_store_si512(to + (k/2 + i)*2*WIDE + 2*half, pairs[i]);
    }
}

template<class Pack>
static void rows_times_weights(const bf16* x, const float* w, const float* bias, bf16* out, int64_t rows, int inputs, int outputs, int threads, Pack pack) {
    const int panels = (outputs + WIDE - 1)/WIDE;
    const int64_t size = (int64_t)inputs*WIDE + 32;        // a line more, lest all panels want the same places of a cache
    static thread_local std::vector<bf16> room;
    bf16* const packed = aligned(room, panels*size);
    #pragma omp parallel num_threads(threads)
    {
        const int t = omp_get_thread_num(), T = omp_get_num_threads();
        for (int p = panels*t/T; p < panels*(t + 1)/T; p++) pack(w, inputs, outputs, p, packed + p*size);
        #pragma omp barrier
        const int64_t first = rows*t/T, n = rows*(t + 1)/T - first, most = std::max(12, 65536/inputs/12*12), parts = (n + most - 1)/most;     // rows that fit the second cache beside a panel
        for (int64_t part = 0; part < parts; part++) {
            const int64_t from = first + n*part/parts, to = first + n*(part + 1)/parts; const int here = int(to - from), tiles = (here + 11)/12;
            Ahead ahead = {x + to*inputs, inputs, (inputs + WIDE - 1)/WIDE, part + 1 < parts ? here : 0, 0};
            for (int p = 0; p < panels; p++) {
                const int wide = outputs - p*WIDE; const __mmask16 m0 = upto(wide), m1 = upto(std::max(0, wide - 16));
                const __m512 low = bias ? _mm512_maskz_loadu_ps(m0, bias + p*WIDE) : _mm512_setzero_ps(), high = bias ? _mm512_maskz_loadu_ps(m1, bias + p*WIDE + 16) : low;
                for (int i = 0; i < tiles; i++) {
                    const int64_t top = from + here*i/tiles; bf16* to = out + top*outputs + p*WIDE;
                    tile<2>(here*(i + 1)/tiles - here*i/tiles, x + top*inputs, inputs, inputs/2, packed + p*size, low, high, [&] { ahead.next(); },
                         [=](int row, __m512 left, __m512 right) { _mm512_mask_storeu_epi16(to + (int64_t)row*outputs, upto32(wide), (__m512i)_mm512_cvtne2ps_pbh(right, left)); });
                }
            }
        }
    }
}

// --- a product summed over rows: the gradient of weights -----------------------------------------------------------------------

static const int DEEP = 384, STEP = 32, BLOCK = 16;        // rows packed at a time, and of one panel at a time; panels of a thread at a time
static const int64_t PANEL = DEEP*WIDE + 32;               // numbers of a packed panel, and a line more

struct Side {                                              // one of the two matrices
    const bf16* x; int64_t rows; int columns; float* sums;
    int panels() const { return (columns + WIDE - 1)/WIDE; }
    int64_t deep(int64_t k) const { return std::max<int64_t>(0, std::min<int64_t>(DEEP, rows - k)); }
    Ahead ahead(int64_t k, int first, int last) const { return {x + k*columns + first*WIDE, columns, last - first, last > first ? deep(k) : 0, 0}; }

    // Rows from k on, panels from first to last, the numbers of two rows side by side; zeros fill up
    void pack(int64_t k, int first, int last, bf16* out, bool sum) const {
        const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
        const int rows = (int)deep(k);
        for (int r0 = 0; r0 < rows; r0 += STEP) for (int p = first; p < last; p++) {
            const int here = columns - p*WIDE;
            const __mmask32 m = upto32(here);
            const bf16* from = x + (k + r0)*columns + p*WIDE; bf16* to = out + (p - first)*PANEL + r0*WIDE;
            __m512 low = _mm512_setzero_ps(), high = low;
            for (int r = r0; r < std::min(rows, r0 + STEP); r += 2, from += 2*columns, to += 2*WIDE) {
                const __m512i one = _mm512_maskz_loadu_epi16(m, from), two = _mm512_maskz_loadu_epi16(r + 1 < rows ? m : 0, from + columns);
                __m512i a, b; pair(one, two, a, b);
                _mm512_store_si512(to, a); _mm512_store_si512(to + 32, b);
                if (sum) { low = _mm512_dpbf16_ps(low, (__m512bh)a, ones); high = _mm512_dpbf16_ps(high, (__m512bh)b, ones); }
            }
            if (sum) {
                float* s = sums + p*WIDE; const __mmask16 m0 = upto(here), m1 = upto(std::max(0, here - 16));
                _mm512_mask_storeu_ps(s, m0, _mm512_add_ps(low, _mm512_maskz_loadu_ps(m0, s))); _mm512_mask_storeu_ps(s + 16, m1, _mm512_add_ps(high, _mm512_maskz_loadu_ps(m1, s + 16)));
            }
        }
    }
};

extern "C" {

// Processors with AMX have better instructions for products still, which PyTorch's use
int usable() { return has_bf16() && !__builtin_cpu_supports("amx-bf16"); }

// x: (rows, inputs), weight: (outputs, inputs), bias: (outputs) or nullptr; out: (rows, outputs). An even number of inputs
void linear(const bf16* x, const float* weight, const float* bias, bf16* out, int64_t rows, int inputs, int outputs, int threads) {
    rows_times_weights(x, weight, bias, out, rows, inputs, outputs, threads, pack_turned);
}

// g: (rows, outputs); gx: (rows, inputs). An even number of outputs
void input_gradient(const bf16* g, const float* weight, bf16* gx, int64_t rows, int outputs, int inputs, int threads) {
    rows_times_weights(g, weight, nullptr, gx, rows, outputs, inputs, threads, pack);
}

// g: (rows, outputs), x: (rows, inputs); gweight: (outputs, inputs); gbias: (outputs), or nullptr
void weight_gradient(const bf16* g, const bf16* x, float* gweight, float* gbias, int64_t rows, int outputs, int inputs, int threads) {
    if (gbias) std::fill(gbias, gbias + outputs, 0.f);
    const Side sides[] = {{g, rows, outputs, gbias}, {x, rows, inputs, nullptr}};
    const bool inputs_split = inputs > outputs;            // threads split the wider side and share the other, which is packed twice over: for now, and for next
    const Side &mine = sides[inputs_split], &shared = sides[!inputs_split];
    const int width = shared.panels();
    static thread_local std::vector<bf16> room;
    bf16* const space = aligned(room, (2*width + threads*BLOCK)*PANEL);
    #pragma omp parallel num_threads(threads)
    {
        const int t = omp_get_thread_num(), T = omp_get_num_threads(), blocks = (mine.panels() + T*BLOCK - 1)/(T*BLOCK);
        const int first_shared = width*t/T, last_shared = width*(t + 1)/T;
        bf16 *my_panels = space + (2*width + t*BLOCK)*PANEL, *our_panels = space;
        for (int block = 0; block < blocks; block++) {
            const int first = mine.panels()*(block*T + t)/(blocks*T), last = mine.panels()*(block*T + t + 1)/(blocks*T);
            for (int64_t k = 0; k < rows; k += DEEP, our_panels = our_panels == space ? space + width*PANEL : space) {
                shared.pack(k, first_shared, last_shared, our_panels + first_shared*PANEL, shared.sums && block == 0);
                mine.pack(k, first, last, my_panels, mine.sums);
                #pragma omp barrier
                Ahead my_next = mine.ahead(k + DEEP, first, last), our_next = shared.ahead(k + DEEP, first_shared, last_shared);
                const int pairs = int(mine.deep(k) + 1)/2;
                const int i0 = inputs_split ? 0 : first, i1 = inputs_split ? width : last, j0 = inputs_split ? first : 0, j1 = inputs_split ? last : width;
                const bf16 *g_panels = inputs_split ? our_panels : my_panels, *x_panels = inputs_split ? my_panels : our_panels;
                for (int j = j0; j < j1; j++) for (int i = i0; i < i1; i++) {
                    const int high = std::min(WIDE, outputs - i*WIDE), tiles = (high + 11)/12, wide = inputs - j*WIDE;
                    const __mmask16 m0 = upto(wide), m1 = upto(std::max(0, wide - 16));
                    for (int n = 0; n < tiles; n++) {
                        const int top = high*n/tiles; float* to = gweight + (int64_t)(i*WIDE + top)*inputs + j*WIDE; Ahead& next = my_next.rows ? my_next : our_next;
                        const int rows_here = high*(n + 1)/tiles - top;
                        for (int row = 0; row < rows_here; row++) { _mm_prefetch((const char*)(to + (int64_t)row*inputs), _MM_HINT_T0); _mm_prefetch((const char*)(to + (int64_t)row*inputs + 16), _MM_HINT_T0); }
                        tile<2*WIDE>(rows_here, g_panels + (i - i0)*PANEL + 2*top, 2, pairs, x_panels + (j - j0)*PANEL, _mm512_setzero_ps(), _mm512_setzero_ps(), [&] { next.next(); }, [=](int row, __m512 left, __m512 right) {
                            float* sum = to + (int64_t)row*inputs;
                            if (k) { left = _mm512_add_ps(left, _mm512_maskz_loadu_ps(m0, sum)); right = _mm512_add_ps(right, _mm512_maskz_loadu_ps(m1, sum + 16)); }
                            _mm512_mask_storeu_ps(sum, m0, left); _mm512_mask_storeu_ps(sum + 16, m1, right);
                        });
                    }
                }
            }
        }
    }
}

}
