// The head's network when drawing (MAR 4.1; `DenoisingMLP` in lesson 09), for processors that multiply bf16 in AVX-512: one call of it, or a chain of diffusion steps.
//
// A drawing calls this network thousands of times with some dozens of rows. A matrix library asks a price for each of
// the dozen products of a call, and everything between them is a pass over memory. Rows never see each other, so here
// each thread takes its share of them through the whole network, without waiting for the others. Lesson 17 measures it.
//
// Compiled and loaded by `head_kernel` in heads.py (`load_cpp`). Sums are float32; what enters a product is bf16.
#include "simd.h"
#include <vector>

static __m512 silu(__m512 x) { return _mm512_mul_ps(x, sigmoid(x)); }

// rows x inputs times inputs x outputs; 32 columns of weights serve all rows while they are in the nearest cache
template<class Done>
static void linear(const bf16* a, int rows, int inputs, const bf16* w, const float* bias, int outputs, Done done) {
    const int tiles = (rows + 11)/12;
    for (int column = 0; column < outputs; column += 32, w += inputs*32)
        for (int t = 0; t < tiles; t++) {
            const int from = rows*t/tiles;
            tile<2>(rows*(t + 1)/tiles - from, a + (ptrdiff_t)from*inputs, inputs, inputs/2, w, _mm512_loadu_ps(bias + column), _mm512_loadu_ps(bias + column + 16), [] {},
                 [=](int i, __m512 left, __m512 right) { done(from + i, column, left); done(from + i, column + 16, right); });
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
    layer(h, W, outputs, [=](int i, int j, __m512 v) { if (j < wanted) _mm512_mask_storeu_ps(out + (ptrdiff_t)i*wanted + j, upto(wanted - j), v); });
}

// What one step of `sample_tokens` takes from the schedule (lesson 08), in this order
struct Step { float x0_from_xt, x0_from_eps, mean_from_x0, mean_from_xt, log_var_low, log_var_high, temperature; };

// Some rows through `count` steps, one behind the other: network, guidance (`guided_call` in lesson 09) and `denoise_step`.
// x: (rows, P), the tokens before and after. noise: (rows, P) for each step, `apart` numbers from one to the next. null_condition: nullptr without guidance
static void some_steps(const Net& net, const Step* steps, int count, float* x, const float* noise, ptrdiff_t apart, const bf16* times, const bf16* condition, const bf16* null_condition, float cfg_scale, float x0_limit, int rows) {
    const int P = net.inputs, W = net.width, passes = null_condition ? 2 : 1;
    static thread_local std::vector<float> floats; static thread_local std::vector<bf16> halves;
    floats.resize((size_t)MOST*3*P); halves.resize((size_t)MOST*W);
    float *xt = floats.data(), *out = xt + (size_t)MOST*P;  // both classes: (2 rows, P) and (2 rows, 2P)
    bf16* conditions = halves.data();
    memcpy(conditions, condition, sizeof(bf16)*rows*W);
    if (null_condition) memcpy(conditions + (size_t)rows*W, null_condition, sizeof(bf16)*rows*W);
    for (int s = 0; s < count; s++, times += W, noise += apart) {
        const Step& at = steps[s];
        for (int pass = 0; pass < passes; pass++) memcpy(xt + (size_t)pass*rows*P, x, sizeof(float)*rows*P);
        some_rows(net, xt, times, conditions, out, passes*rows);
        for (int i = 0; i < rows; i++) for (int k = 0; k < P; k += 16) {
            const __mmask16 m = upto(P - k);
            const auto get = [=](const float* p) { return _mm512_maskz_loadu_ps(m, p + k); };
            __m512 eps = get(out + (size_t)i*2*P);
            if (null_condition) { const __m512 null_eps = get(out + (size_t)(rows + i)*2*P); eps = _mm512_fmadd_ps(number(cfg_scale), _mm512_sub_ps(eps, null_eps), null_eps); }
            const __m512 before = get(x + (size_t)i*P), share = _mm512_mul_ps(_mm512_add_ps(get(out + (size_t)i*2*P + P), number(1.f)), number(.5f));
            __m512 x0 = _mm512_sub_ps(_mm512_mul_ps(number(at.x0_from_xt), before), _mm512_mul_ps(number(at.x0_from_eps), eps));
            x0 = _mm512_min_ps(number(x0_limit), _mm512_max_ps(number(-x0_limit), x0));       // in this order NaN stays NaN
            const __m512 log_var = _mm512_fmadd_ps(share, number(at.log_var_high - at.log_var_low), number(at.log_var_low));
            const __m512 std = _mm512_mul_ps(number(at.temperature), exponential(_mm512_mul_ps(number(.5f), log_var)));
            const __m512 mean = _mm512_fmadd_ps(number(at.mean_from_x0), x0, _mm512_mul_ps(number(at.mean_from_xt), before));
            _mm512_mask_storeu_ps(x + (size_t)i*P + k, m, _mm512_fmadd_ps(std, get(noise + (size_t)i*P), mean));
        }
    }
}

// Each thread its share of the rows, no more than `most` at a time: part(from, how many)
template<class Part>
static void share_rows(int rows, int threads, int most, Part part) {
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (int t = 0; t < threads; t++) {
        const int64_t first = (int64_t)rows*t/threads, n = (int64_t)rows*(t + 1)/threads - first, parts = (n + most - 1)/most;
        for (int64_t p = 0; p < parts; p++) part(first + n*p/parts, int(first + n*(p + 1)/parts - (first + n*p/parts)));
    }
}

extern "C" {

// Processors with AMX have better instructions for products still, which PyTorch's use
int usable() { return has_bf16() && !__builtin_cpu_supports("amx-bf16"); }

void head(const Net* net, const float* xt, const bf16* time, const bf16* condition, float* out, int rows, int threads) {
    share_rows(rows, threads, MOST, [=](int64_t from, int n) { some_rows(*net, xt + from*net->inputs, time, condition + from*net->width, out + from*net->outputs, n); });
}

// For a net of 2P outputs. noise: (count, rows, P); times: (count, W); condition: (rows, W), guided (2 rows, W), the null class's behind
void head_steps(const Net* net, const Step* steps, int count, float* x, const float* noise, const bf16* times, const bf16* condition, int guided, float cfg_scale, float x0_limit, int rows, int threads) {
    const int P = net->inputs, W = net->width;
    share_rows(rows, threads, guided ? MOST/2 : MOST, [=](int64_t from, int n) {
        some_steps(*net, steps, count, x + from*P, noise + from*P, (ptrdiff_t)rows*P, times, condition + from*W, guided ? condition + (rows + from)*W : nullptr, cfg_scale, x0_limit, n);
    });
}

}
