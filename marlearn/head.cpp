// One call of the head's network (MAR 4.1; `DenoisingMLP` in lesson 09), for processors that multiply bf16 in AVX-512.
//
// A drawing calls this network thousands of times with some dozens of rows. A matrix library asks a price for each of
// the dozen products of a call, and everything between them is a pass over memory. Rows never see each other, so here
// each thread takes its share of them through the whole network, without waiting for the others. Lesson 17 measures it.
//
// Compiled and loaded by `head_kernel` in heads.py (`load_cpp`). Sums are float32; what enters a product is bf16.
#include "simd.h"
#include <utility>
#include <vector>

static __m512 silu(__m512 x) { return _mm512_mul_ps(x, sigmoid(x)); }

// The innermost loop: a few rows (as many as there are I, at most 12) times 32 columns. The 24 sums stay in registers; to be
// sure of that, "for each row" is a fold over I, which leaves the compiler no loop to decide about. `done` takes 16 sums each.
static const int AHEAD = 64;                               // pairs of inputs, 8 KB of weights: asked for before they are needed
template<int... I, class Done>
static inline void tile(std::integer_sequence<int, I...>, const bf16* a, int inputs, const bf16* w, const float* bias, int row, int column, Done done) {
    __m512 left[] = {(void(I), _mm512_loadu_ps(bias))...}, right[] = {(void(I), _mm512_loadu_ps(bias + 16))...};
    for (int k = 0; k < inputs; k += 2, w += 64) {
        _mm_prefetch((const char*)(w + 64*AHEAD), _MM_HINT_T0); _mm_prefetch((const char*)(w + 64*AHEAD + 32), _MM_HINT_T0);
        __m512bh w0 = (__m512bh)_mm512_loadu_si512(w), w1 = (__m512bh)_mm512_loadu_si512(w + 32);
        ([&] {
            int32_t pair; memcpy(&pair, a + I*inputs + k, 4);
            __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
            left[I] = _mm512_dpbf16_ps(left[I], x, w0); right[I] = _mm512_dpbf16_ps(right[I], x, w1);
        }(), ...);
    }
    ((done(row + I, column, left[I]), done(row + I, column + 16, right[I])), ...);
}

// rows x inputs times inputs x outputs; 32 columns of weights serve all rows while they are in the nearest cache
template<class Done>
static void linear(const bf16* a, int rows, int inputs, const bf16* w, const float* bias, int outputs, Done done) {
    const int tiles = (rows + 11)/12;
    for (int column = 0; column < outputs; column += 32, w += inputs*32)
        for (int t = 0; t < tiles; t++) {
            const int from = rows*t/tiles;
            switch (rows*(t + 1)/tiles - from) {
                #define ROWS(n) case n: tile(std::make_integer_sequence<int, n>(), a + (ptrdiff_t)from*inputs, inputs, w, bias + column, from, column, done); break;
                ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12)
            }
        }
}

// LayerNorm without its weights; `done` takes 16 numbers each
template<class Done>
static void norm(const float* x, int width, Done done) {
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int k = 0; k < width; k += 16) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + k));
    const __m512 mean = number(_mm512_reduce_add_ps(sum)/width);
    for (int k = 0; k < width; k += 16) { __m512 d = _mm512_sub_ps(_mm512_loadu_ps(x + k), mean); squares = _mm512_fmadd_ps(d, d, squares); }
    const __m512 factor = number(1/std::sqrt(_mm512_reduce_add_ps(squares)/width + 1e-6f));
    for (int k = 0; k < width; k += 16) done(k, _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + k), mean), factor));
}

struct Net {                                               // as `KernelMLP` in heads.py fills it in
    int32_t width, blocks, inputs, outputs;                // width: a multiple of 32
    const bf16* weights;                                   // layer after layer: 32 outputs at a time, of those two inputs at a time; zeros fill up inputs and outputs
    const float* biases;                                   // in the same order, and each block's norm
};
static const int MOST = 96;                                // rows at a time: what they need must fit beside the weights in the second cache

static void some_rows(const Net& net, const float* xt, const bf16* time, const bf16* condition, float* out, int rows) {
    const int W = net.width, inputs = net.inputs + net.inputs % 2, outputs = (net.outputs + 31)/32*32;
    static thread_local std::vector<float> floats; static thread_local std::vector<bf16> halves;
    floats.resize((size_t)MOST*4*W); halves.resize((size_t)MOST*(3*W + inputs));
    float *x = floats.data(), *dials = x + MOST*W;         // (rows, W), and shift, 1 + scale and gate (rows, 3W)
    bf16 *c = halves.data(), *h = c + MOST*W, *g = h + MOST*W, *token = g + MOST*W;
    const bf16* w = net.weights; const float* b = net.biases;
    auto layer = [&](const bf16* a, int from, int to, auto done) { linear(a, rows, from, w, b, to, done); w += (ptrdiff_t)from*to; b += to; };
    auto to_dials = [=](int columns) { return [=](int i, int j, __m512 v) { _mm512_storeu_ps(dials + i*columns + j, v); }; };

    for (int i = 0; i < rows; i++) {
        for (int k = 0; k < inputs; k++) _mm_storeu_si16(token + i*inputs + k, (__m128i)_mm_cvtneps_pbh(_mm_set_ss(k < net.inputs ? xt[(ptrdiff_t)i*net.inputs + k] : 0.f)));
        for (int k = 0; k < W; k += 16) {
            __m512 v = load(condition + (ptrdiff_t)i*W + k);
            store(c + i*W + k, silu(time ? _mm512_add_ps(v, load(time + k)) : v));
        }
    }
    layer(token, inputs, W, [=](int i, int j, __m512 v) { _mm512_storeu_ps(x + i*W + j, v); });
    for (int n = 0; n < net.blocks; n++) {
        layer(c, W, 3*W, to_dials(3*W));
        const float* scale = b; const float* shift = b + W; b += 2*W;
        for (int i = 0; i < rows; i++) norm(x + i*W, W, [=](int k, __m512 v) {
            v = _mm512_fmadd_ps(v, _mm512_loadu_ps(scale + k), _mm512_loadu_ps(shift + k));
            store(h + i*W + k, _mm512_fmadd_ps(v, _mm512_loadu_ps(dials + i*3*W + W + k), _mm512_loadu_ps(dials + i*3*W + k)));
        });
        layer(h, W, W, [=](int i, int j, __m512 v) { store(g + i*W + j, silu(v)); });
        layer(g, W, W, [=](int i, int j, __m512 v) { _mm512_storeu_ps(x + i*W + j, _mm512_fmadd_ps(v, _mm512_loadu_ps(dials + i*3*W + 2*W + j), _mm512_loadu_ps(x + i*W + j))); });
    }
    layer(c, W, 2*W, to_dials(2*W));
    for (int i = 0; i < rows; i++) norm(x + i*W, W, [=](int k, __m512 v) {
        store(h + i*W + k, _mm512_fmadd_ps(v, _mm512_loadu_ps(dials + i*2*W + W + k), _mm512_loadu_ps(dials + i*2*W + k)));
    });
    const int wanted = net.outputs;
    layer(h, W, outputs, [=](int i, int j, __m512 v) { if (j < wanted) _mm512_mask_storeu_ps(out + (ptrdiff_t)i*wanted + j, wanted - j < 16 ? (1 << (wanted - j)) - 1 : 0xffff, v); });
}

extern "C" {

// Processors with AMX have better instructions for products still, which PyTorch's use
int usable() { return has_bf16() && !__builtin_cpu_supports("amx-bf16"); }

void head(const Net* net, const float* xt, const bf16* time, const bf16* condition, float* out, int rows, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++) {
        const int64_t first = (int64_t)rows*t/threads, n = (int64_t)rows*(t + 1)/threads - first, parts = (n + MOST - 1)/MOST;
        for (int64_t p = 0; p < parts; p++) {
            const int64_t from = first + n*p/parts, to = first + n*(p + 1)/parts;
            some_rows(*net, xt + from*net->inputs, time, condition + from*net->width, out + from*net->outputs, int(to - from));
        }
    }
}

}
