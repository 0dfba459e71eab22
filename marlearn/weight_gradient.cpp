// The gradient of a linear layer's weights, a product summed over rows: out[i][j] = sum over r of g[r][i]*x[r][j] (`_HalfLinear` in
// lesson 06), for processors that multiply bf16 in AVX-512. And of its bias, the sum of g over rows, which passes by.
//
// The processor multiplies *pairs* of bf16, and here the two of a pair lie a row apart. So rows are taken some hundreds at a time,
// packed in pairs for the caches (`pack`), and multiplied as in head.cpp. Three things decide the speed: what is packed next is
// called from memory line by line while the processor multiplies (`Ahead`); it is packed for some dozen rows of a panel at a
// time, in lines that follow one another; and threads share the packing of what both need.
//
// Compiled and loaded by `load_cpp` in transformer.py. Sums are float32 from beginning to end, in the same order for any number of threads.
#include "simd.h"
#include <algorithm>
#include <omp.h>
#include <utility>
#include <vector>

static const int WIDE = 32, DEEP = 384, STEP = 32, BLOCK = 16;       // columns of a panel; rows packed at a time, and of one panel at a time; panels of a thread at a time
static const int64_t PANEL = DEEP*WIDE + 32;                         // numbers of a packed panel; a line more, lest all panels want the same places of a cache

static inline __mmask32 upto32(int left) { return left < 32 ? (1u << left) - 1 : 0xffffffff; }

struct Ahead {                                             // lines of memory, asked for one by one
    const bf16* row; int64_t stride; int lines; int64_t rows; int line;
    void next() {
        if (rows <= 0) return;
        _mm_prefetch((const char*)(row + line*WIDE), _MM_HINT_T1);
        if (++line == lines) { line = 0; row += stride; rows--; }
    }
};

struct Side {                                              // one of the two matrices
    const bf16* x; int64_t rows; int columns; float* sums;
    int panels() const { return (columns + WIDE - 1)/WIDE; }
    int64_t deep(int64_t k) const { return std::max<int64_t>(0, std::min<int64_t>(DEEP, rows - k)); }
    Ahead ahead(int64_t k, int first, int last) const { return {x + k*columns + first*WIDE, columns, last - first, last > first ? deep(k) : 0, 0}; }

    // Rows from k on, panels from first to last, the numbers of two rows side by side; zeros fill up
    void pack(int64_t k, int first, int last, bf16* out, bool sum) const {
        alignas(64) static const uint16_t ORDER[] = {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
        const __m512i left = _mm512_load_si512(ORDER), right = _mm512_add_epi16(left, _mm512_set1_epi16(16));
        const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
        const int rows = (int)deep(k);
        for (int r0 = 0; r0 < rows; r0 += STEP) for (int p = first; p < last; p++) {
            const int here = columns - p*WIDE;
            const __mmask32 m = upto32(here);
            const bf16* from = x + (k + r0)*columns + p*WIDE; bf16* to = out + (p - first)*PANEL + r0*WIDE;
            __m512 low = _mm512_setzero_ps(), high = low;
            for (int r = r0; r < std::min(rows, r0 + STEP); r += 2, from += 2*columns, to += 2*WIDE) {
                const __m512i one = _mm512_maskz_loadu_epi16(m, from), two = _mm512_maskz_loadu_epi16(r + 1 < rows ? m : 0, from + columns);
                const __m512i a = _mm512_permutex2var_epi16(one, left, two), b = _mm512_permutex2var_epi16(one, right, two);
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

// As many columns of g as there are I, at most 12, times 32 of x, summed over `pairs` of rows; the 24 sums stay in registers (see `tile` in head.cpp)
template<int... I>
static inline void tile(std::integer_sequence<int, I...>, const bf16* g, const bf16* x, int pairs, float* out, int64_t stride, __mmask16 m0, __mmask16 m1, bool first, Ahead& ahead) {
    __m512 left[] = {(void(I), _mm512_setzero_ps())...}, right[] = {(void(I), _mm512_setzero_ps())...};
    ((_mm_prefetch((const char*)(out + I*stride), _MM_HINT_T0), _mm_prefetch((const char*)(out + I*stride + 16), _MM_HINT_T0)), ...);
    for (int from = 0; from < pairs; from += 8) {
        ahead.next();
        for (int k = from; k < std::min(pairs, from + 8); k++, g += 2*WIDE, x += 2*WIDE) {
            const __m512bh x0 = (__m512bh)_mm512_loadu_si512(x), x1 = (__m512bh)_mm512_loadu_si512(x + 32);
            ([&] {
                int32_t pair; memcpy(&pair, g + 2*I, 4);
                const __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
                left[I] = _mm512_dpbf16_ps(left[I], both, x0); right[I] = _mm512_dpbf16_ps(right[I], both, x1);
            }(), ...);
        }
    }
    if (!first) ((left[I] = _mm512_add_ps(left[I], _mm512_maskz_loadu_ps(m0, out + I*stride)), right[I] = _mm512_add_ps(right[I], _mm512_maskz_loadu_ps(m1, out + I*stride + 16))), ...);
    ((_mm512_mask_storeu_ps(out + I*stride, m0, left[I]), _mm512_mask_storeu_ps(out + I*stride + 16, m1, right[I])), ...);
}

extern "C" {

// Processors with AMX have better instructions for products still, which PyTorch's use
int usable() { return has_bf16() && !__builtin_cpu_supports("amx-bf16"); }

// g: (rows, outputs), x: (rows, inputs); gweight: (outputs, inputs); gbias: (outputs), or nullptr
void weight_gradient(const bf16* g, const bf16* x, float* gweight, float* gbias, int64_t rows, int outputs, int inputs, int threads) {
    if (gbias) std::fill(gbias, gbias + outputs, 0.f);
    const Side sides[] = {{g, rows, outputs, gbias}, {x, rows, inputs, nullptr}};
    const bool inputs_split = inputs > outputs;            // threads split the wider side and share the other, which is packed twice over: for now, and for next
    const Side &mine = sides[inputs_split], &shared = sides[!inputs_split];
    const int width = shared.panels();
    static thread_local std::vector<bf16> room;            // of the thread that calls
    room.resize((2*width + threads*BLOCK)*PANEL + 32);
    bf16* const space = room.data() + (64 - (uintptr_t)room.data() % 64)/2 % 32;
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
                        const int top = high*n/tiles;
                        switch (high*(n + 1)/tiles - top) {
                            #define ROWS(n) case n: tile(std::make_integer_sequence<int, n>(), g_panels + (i - i0)*PANEL + 2*top, x_panels + (j - j0)*PANEL, pairs, \
                                                         gweight + (int64_t)(i*WIDE + top)*inputs + j*WIDE, inputs, m0, m1, k == 0, my_next.rows ? my_next : our_next); break;
                            ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12)
                        }
                    }
                }
            }
        }
    }
}

}
