// Sixteen numbers at a time, in AVX-512: what head.cpp and transformer.cpp share
#include <immintrin.h>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>

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

// Has this processor the instructions?
static inline bool has_bf16() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
}
