// Sixteen numbers at a time, in AVX-512: what head.cpp and transformer.cpp share
#include <immintrin.h>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <utility>

typedef uint16_t bf16;

static inline __m512 number(float x) { return _mm512_set1_ps(x); }
static inline __mmask16 upto(int64_t left) { return left < 16 ? (1 << left) - 1 : 0xffff; }     // 16 numbers, or fewer at the end of a row

// As many as m says; the others are zero
static inline __m512 load(const bf16* p, __mmask16 m = 0xffff) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p)), 16)); }
static inline void store(bf16* p, __m512 v, __mmask16 m = 0xffff) { _mm256_mask_storeu_epi16(p, m, (__m256i)_mm512_cvtneps_pbh(v)); }

// e^x = 2^n e^r with |r| <= ln(2)/2, where six terms of the series are enough
static inline __m512 exponential(__m512 x) {
    x = _mm512_max_ps(number(-87.f), _mm512_min_ps(number(88.f), x));       // in this order NaN stays NaN
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, number(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 r = _mm512_fnmadd_ps(n, number(0.693147181f), x);
    __m512 sum = number(1/120.f);
    for (float c : {1/24.f, 1/6.f, 1/2.f, 1.f, 1.f}) sum = _mm512_fmadd_ps(sum, r, number(c));
    return _mm512_scalef_ps(sum, n);
}

static inline __m512 sigmoid(__m512 x) {
    const __m512 s = _mm512_div_ps(number(1.f), _mm512_add_ps(number(1.f), exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, number(-87.f), _CMP_NLT_UQ), s);        // farther out it is zero: `exponential` stops there
}

// The innermost loop of a matrix product: as many rows as there are I, at most 12, times 32 columns of packed weights. The 24 sums
// stay in registers; to be sure of that, "for each row" is a fold over I, which leaves the compiler no loop to decide about.
// a: pairs of inputs, `row` numbers from one row to the next and STEP from one pair to the next; w: 32 pairs of weights after 32 pairs.
// low and high: where the sums of the 32 columns begin. `meanwhile` is called once in eight pairs; `done` takes a row's 32 sums
// (let it hold what it needs by value: by reference, the compiler has to read it again after each store).
template<int STEP, int... I, class Meanwhile, class Done>
static inline void tile(std::integer_sequence<int, I...>, const bf16* a, ptrdiff_t row, int pairs, const bf16* w, __m512 low, __m512 high, Meanwhile meanwhile, Done done) {
    const int ahead = 64;                                  // pairs, 8 KB of weights: asked for before they are needed
    __m512 left[] = {(void(I), low)...}, right[] = {(void(I), high)...};
    for (int k = 0; k < pairs; k++, w += 64) {
        if (k % 8 == 0) meanwhile();
        _mm_prefetch((const char*)(w + 64*ahead), _MM_HINT_T0); _mm_prefetch((const char*)(w + 64*ahead + 32), _MM_HINT_T0);
        const __m512bh w0 = (__m512bh)_mm512_loadu_si512(w), w1 = (__m512bh)_mm512_loadu_si512(w + 32);
        ([&] {
            int32_t pair; memcpy(&pair, a + I*row + k*STEP, 4);
            const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
            left[I] = _mm512_dpbf16_ps(left[I], x, w0); right[I] = _mm512_dpbf16_ps(right[I], x, w1);
        }(), ...);
    }
    (done(I, left[I], right[I]), ...);
}

// `tile` for a number of rows known only now
template<int STEP, class... Rest>
static inline void tile(int rows, const Rest&... rest) {
    switch (rows) {
        #define ROWS(n) case n: tile<STEP>(std::make_integer_sequence<int, n>(), rest...); break;
        ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12)
        #undef ROWS
    }
}

// Has this processor the instructions?
static inline bool has_bf16() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
}
