/* Inference of recurrent networks with sparse weights on one core: C99 with the attributes of gcc and clang.
 *
 * Compile gcc's code with -ffp-contract=off; clang is told below. deploy/packing.py writes the arrays of a matrix and
 * checks every index in them; this file trusts them. deploy/native.py mirrors the structs.
 *
 * A product y = W x has two parts: a kernel sums in the packed order of rows, and `hp_product` scales and orders.
 * Kernels of int8 sum integers, and everything else is elementwise in a fixed order of IEEE operations. The plain,
 * AVX2, AVX-512 and NEON builds of int8 therefore agree bit for bit. Requantisation, exactly:
 *
 *   m = max |x_j|;  q_j = round_to_even(x_j * (127 / m)), an int8;  s = m / 127;
 *   y_i = (float)(sum_j w_ij q_j) * (scale_i * s),  where W_ij is about scale_i * w_ij with an int8 w_ij.
 *
 * q = 0 and s = 0 if m < 1e-30; q = 0 and s = NaN if an x_j is not finite.
 */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF /* since version 14, clang fuses also under -std=c99 */
#endif
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define AVX2 __attribute__((target("avx2,fma")))
#ifndef AVX512 /* tests/deploy/avx512_in_c.h runs these functions on any processor */
#define AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")))
#endif

enum { DENSE_FP32, DENSE_INT8, WINDOW_FP32, WINDOW_INT8, BLOCK_FP32, BLOCK_INT8, FORMATS };
enum { LSTM, GRU, RNN_TANH, RNN_RELU, RHN, UNCOUPLED_RHN };
enum { PLAIN, AVX2_BUILD, AVX512_BUILD, NEON_BUILD, BUILDS };
enum { AHEAD = 1024 }; /* bytes to prefetch ahead: hides part of the latency of the last cache level */
enum { LANES = 16, SLOTS = 4, STEP = LANES * SLOTS, WINDOW = 64, PAD = 64 };

/* A packed matrix; which arrays a format has: packing.py. */
typedef struct {
    int32_t format, rows, columns, groups;
    const void *values;
    const uint8_t *offsets; /* window: position of each value's input after the step's base */
    const uint16_t *bases;  /* window: first input of each step; block: number of each block's four columns */
    const uint32_t *starts; /* groups + 1: first step or block of each group of rows */
    const int32_t *order;   /* window: row of the matrix at each packed place */
    const float *scales;    /* int8: one for each packed row */
    const int32_t *sums;    /* int8: sum of each packed row's values */
} hp_matrix;

/* Work space for one product; arrays of inputs have room for the widest matrix's columns and PAD more. */
typedef struct {
    float *input;      /* x, then PAD zeros */
    int8_t *signed8;   /* q */
    uint8_t *unsigned8; /* q + 128 */
    uint8_t *planes;   /* the bytes of x: all first bytes, all second bytes, ... */
    uint8_t *changes;  /* AVX2: each byte of q xor the byte 16 places later */
    int64_t plane;     /* bytes from one plane to the next */
    int32_t *integers; /* sums in packed order */
    float *floats;     /* the same for fp32 */
} hp_work;

typedef struct {
    int32_t cell, inputs, hidden, depth;
    const hp_matrix *input;     /* W */
    const hp_matrix *recurrent; /* R, or one for each micro-step */
    const float *input_bias;    /* rows of W */
    const float *recurrent_bias; /* rows of each R */
} hp_layer;

typedef struct {
    int32_t build, layers, inputs, outputs, state, vocabulary;
    const float *embedding; /* (vocabulary, inputs), or NULL: inputs are vectors */
    const float *mean, *deviation; /* of the inputs, or NULL */
    const hp_layer *layer;
    const hp_matrix *head; /* or NULL: the output is the top layer's h */
    const float *head_bias;
    float *vector, *from_input, *from_state; /* widest input; widest layer's rows, twice */
    hp_work work;
} hp_plan;

/* ---------------------------------------------------------------- elementwise: one source for all builds */

INLINE float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

INLINE uint32_t as_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

/* Round to the nearest integer, ties to even, for |x| < 2^22. */
INLINE float rounded(float x) { return (x + 12582912.0f) - 12582912.0f; }

/* exp(x) by the polynomial of Cephes expf (S. Moshier), at most 2 units in the last place, for |x| < 87. */
INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 87.0f ? 87.0f : x;
    float n = rounded(x * 1.44269504088896341f);
    float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * (r * r) + r) + 1.0f;
    return p * as_float((uint32_t)((int32_t)n + 127) << 23);
}

INLINE float sigmoid(float x) { return x != x ? x : 1.0f / (1.0f + exponential(-x)); }

/* tanh(x) as Cephes tanhf: an odd polynomial below 0.625, from exp above. */
INLINE float tangent(float x) {
    float size = as_float(as_bits(x) & 0x7fffffffu), z = x * x;
    float large = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
    large = as_float(as_bits(large) | (as_bits(x) & 0x80000000u));
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z + -5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z + -3.33332819422e-1f;
    float small = p * z * x + x;
    float value = size < 0.625f ? small : large;
    return x != x ? x : value;
}

/* Quantise x (n) to q; return s. */
INLINE float quantise_body(const float *restrict x, int n, int8_t *restrict q, uint8_t *restrict u) {
    uint32_t most = 0;
    for (int j = 0; j < n; j++) {
        uint32_t size = as_bits(x[j]) & 0x7fffffffu;
        most = size > most ? size : most;
    }
    float m = as_float(most), factor = 127.0f / m;
    if (most >= 0x7f800000u || m < 1e-30f) {
        memset(q, 0, (size_t)n + PAD);
        memset(u, 128, (size_t)n + PAD);
        return most >= 0x7f800000u ? as_float(0x7fc00000u) : 0.0f;
    }
    for (int j = 0; j < n; j++) {
        int32_t value = (int32_t)rounded(x[j] * factor);
        q[j] = (int8_t)value;
        u[j] = (uint8_t)(value + 128);
    }
    memset(q + n, 0, PAD);
    memset(u + n, 128, PAD);
    return m / 127.0f;
}

INLINE void split_body(const float *restrict x, int n, uint8_t *restrict planes, int64_t plane) {
    for (int j = 0; j < n; j++) {
        uint32_t bits = as_bits(x[j]);
        planes[j] = (uint8_t)bits;
        planes[plane + j] = (uint8_t)(bits >> 8);
        planes[2 * plane + j] = (uint8_t)(bits >> 16);
        planes[3 * plane + j] = (uint8_t)(bits >> 24);
    }
    for (int k = 0; k < 4; k++) memset(planes + k * plane + n, 0, PAD);
}

/* Gates i, f, g, o as in torch. */
INLINE void lstm_body(int n, const float *restrict a, const float *restrict b, const float *restrict bias,
                      float *restrict h, float *restrict c) {
    for (int j = 0; j < n; j++) {
        float in = sigmoid((a[j] + b[j]) + bias[j]);
        float forget = sigmoid((a[n + j] + b[n + j]) + bias[n + j]);
        float cell = tangent((a[2 * n + j] + b[2 * n + j]) + bias[2 * n + j]);
        float out = sigmoid((a[3 * n + j] + b[3 * n + j]) + bias[3 * n + j]);
        c[j] = forget * c[j] + in * cell;
        h[j] = out * tangent(c[j]);
    }
}

/* Gates r, z, n as in torch: the reset gate multiplies R h + b. */
INLINE void gru_body(int n, const float *restrict a, const float *restrict b, const float *restrict p,
                     const float *restrict q, float *restrict h) {
    for (int j = 0; j < n; j++) {
        float reset = sigmoid((a[j] + p[j]) + (b[j] + q[j]));
        float update = sigmoid((a[n + j] + p[n + j]) + (b[n + j] + q[n + j]));
        float fresh = tangent((a[2 * n + j] + p[2 * n + j]) + reset * (b[2 * n + j] + q[2 * n + j]));
        h[j] = fresh + update * (h[j] - fresh);
    }
}

INLINE void rnn_body(int n, int relu, const float *restrict a, const float *restrict b, const float *restrict bias,
                     float *restrict h) {
    if (relu) {
        for (int j = 0; j < n; j++) {
            float sum = (a[j] + b[j]) + bias[j];
            h[j] = sum < 0.0f ? 0.0f : sum;
        }
    } else {
        for (int j = 0; j < n; j++) h[j] = tangent((a[j] + b[j]) + bias[j]);
    }
}

/* One micro-step of a recurrent highway layer: gates h, t and, if not coupled, c; a is zero after the first. */
INLINE void rhn_body(int n, int coupled, int first, const float *restrict a, const float *restrict b,
                     const float *restrict bias, float *restrict s) {
    for (int j = 0; j < n; j++) {
        float x = first ? a[j] : 0.0f, y = first ? a[n + j] : 0.0f;
        float h = tangent((x + b[j]) + bias[j]), t = sigmoid((y + b[n + j]) + bias[n + j]);
        float c = 1.0f - t;
        if (!coupled) c = sigmoid(((first ? a[2 * n + j] : 0.0f) + b[2 * n + j]) + bias[2 * n + j]);
        s[j] = h * t + s[j] * c;
    }
}

/* y[order[i]] = packed[i]. Not inlined: the scatter of AVX-512 is slower than this loop. */
__attribute__((noinline)) static void put_in_order(int n, const int32_t *restrict order, const float *restrict packed,
                                                   float *restrict y) {
    int i = 0;
    for (; i + 4 <= n; i += 4) { /* half the time of the loop below */
        int a = order[i], b = order[i + 1], c = order[i + 2], d = order[i + 3];
        float first = packed[i], second = packed[i + 1], third = packed[i + 2], fourth = packed[i + 3];
        y[a] = first;
        y[b] = second;
        y[c] = third;
        y[d] = fourth;
    }
    for (; i < n; i++) y[order[i]] = packed[i];
}

/* y = sums * scales; `shift` times the sums of the weights are subtracted from the sums first. */
INLINE void finish_int8_body(const hp_matrix *m, const hp_work *w, float s, float *restrict y, uint32_t shift) {
    const float *restrict scales = m->scales;
    const int32_t *restrict sums = w->integers, *restrict of_weights = m->sums;
    float *restrict scaled = m->order ? w->floats : y;
    int n = m->rows;
    for (int i = 0; i < n; i++) {
        int32_t sum = shift ? (int32_t)((uint32_t)sums[i] - shift * (uint32_t)of_weights[i]) : sums[i];
        scaled[i] = (float)sum * (scales[i] * s);
    }
    if (m->order) put_in_order(m->rows, m->order, scaled, y);
}

/* The bodies compiled for a build, whose int8 sums are those of inputs larger by `shift`. */
#define ELEMENTWISE(build, target, shift)                                                                              \
    target static void finish_int8_##build(const hp_matrix *m, const hp_work *w, float s, float *y) {                  \
        finish_int8_body(m, w, s, y, shift);                                                                           \
    }                                                                                                                  \
    target static void lstm_##build(int n, const float *a, const float *b, const float *bias, float *h, float *c) {    \
        lstm_body(n, a, b, bias, h, c);                                                                                \
    }                                                                                                                  \
    target static void gru_##build(int n, const float *a, const float *b, const float *p, const float *q, float *h) {  \
        gru_body(n, a, b, p, q, h);                                                                                    \
    }                                                                                                                  \
    target static void rnn_##build(int n, int relu, const float *a, const float *b, const float *bias, float *h) {     \
        rnn_body(n, relu, a, b, bias, h);                                                                              \
    }                                                                                                                  \
    target static void rhn_##build(int n, int coupled, int first, const float *a, const float *b, const float *bias,   \
                                   float *s) {                                                                         \
        rhn_body(n, coupled, first, a, b, bias, s);                                                                    \
    }

/* ---------------------------------------------------------------- plain loops */

static void dense_fp32_plain(const hp_matrix *m, const hp_work *w) {
    int stride = (m->columns + 15) / 16 * 16;
    for (int i = 0; i < m->rows; i++) {
        const float *value = (const float *)m->values + (size_t)(i / 4) * 4 * stride + i % 4 * 16;
        float part[8] = {0};
        for (int j = 0; j < stride; j += 8)
            for (int k = 0; k < 8; k++) part[k] += value[j / 16 * 64 + j % 16 + k] * w->input[j + k];
        w->floats[i] = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
    }
}

static void dense_int8_plain(const hp_matrix *m, const hp_work *w) {
    int stride = (m->columns + 63) / 64 * 64;
    for (int i = 0; i < m->rows; i++) {
        const int8_t *value = (const int8_t *)m->values + (size_t)(i / 4) * 4 * stride + i % 4 * 64;
        int32_t sum = 0;
        for (int j = 0; j < stride; j += 64)
            for (int k = 0; k < 64; k++) sum += value[j * 4 + k] * w->signed8[j + k];
        w->integers[i] = sum;
    }
}

/* The place of a slot's offset in a step: window.fp32 interleaves so that byte planes unpack to vectors of lanes. */
INLINE int fp32_place(int lane, int slot) { return lane / 4 * 16 + slot * 4 + lane % 4; }

static void window_fp32_plain(const hp_matrix *m, const hp_work *w) {
    const float *values = m->values;
    for (int g = 0; g < m->groups; g++) {
        float sum[LANES] = {0};
        for (uint32_t step = m->starts[g]; step < m->starts[g + 1]; step++) {
            const float *x = w->input + m->bases[step], *value = values + (size_t)step * STEP;
            const uint8_t *offset = m->offsets + (size_t)step * STEP;
            for (int slot = 0; slot < SLOTS; slot++)
                for (int lane = 0; lane < LANES; lane++)
                    sum[lane] += value[slot * LANES + lane] * x[offset[fp32_place(lane, slot)]];
        }
        memcpy(w->floats + g * LANES, sum, sizeof sum);
    }
}

static void window_int8_plain(const hp_matrix *m, const hp_work *w) {
    const int8_t *values = m->values;
    for (int g = 0; g < m->groups; g++) {
        int32_t sum[LANES] = {0};
        for (uint32_t step = m->starts[g]; step < m->starts[g + 1]; step++) {
            const int8_t *x = w->signed8 + m->bases[step], *value = values + (size_t)step * STEP;
            const uint8_t *offset = m->offsets + (size_t)step * STEP;
            for (int lane = 0; lane < LANES; lane++)
                for (int k = lane * SLOTS; k < (lane + 1) * SLOTS; k++) sum[lane] += value[k] * x[offset[k]];
        }
        memcpy(w->integers + g * LANES, sum, sizeof sum);
    }
}

static void block_fp32_plain(const hp_matrix *m, const hp_work *w) {
    const float *values = m->values;
    for (int g = 0; g < m->groups; g++) {
        float sum[8] = {0};
        for (uint32_t block = m->starts[g]; block < m->starts[g + 1]; block++) {
            const float *x = w->input + 4 * m->bases[block], *value = values + (size_t)block * 32;
            for (int column = 0; column < 4; column++)
                for (int row = 0; row < 8; row++) sum[row] += value[column * 8 + row] * x[column];
        }
        memcpy(w->floats + g * 8, sum, sizeof sum);
    }
}

static void block_int8_plain(const hp_matrix *m, const hp_work *w) {
    const int8_t *values = m->values;
    for (int g = 0; g < m->groups; g++) {
        int32_t sum[8] = {0};
        for (uint32_t block = m->starts[g]; block < m->starts[g + 1]; block++) {
            const int8_t *x = w->signed8 + 4 * m->bases[block], *value = values + (size_t)block * 32;
            for (int row = 0; row < 8; row++)
                for (int column = 0; column < 4; column++) sum[row] += value[row * 4 + column] * x[column];
        }
        memcpy(w->integers + g * 8, sum, sizeof sum);
    }
}

static float quantise_plain(const float *x, int n, int8_t *q, uint8_t *u) { return quantise_body(x, n, q, u); }
static void split_plain(const float *x, int n, uint8_t *planes, int64_t plane) { split_body(x, n, planes, plane); }
ELEMENTWISE(plain, , 0)

/* ---------------------------------------------------------------- AVX2 */
#if defined(__x86_64__)

AVX2 INLINE float sum_of_8(__m256 v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

AVX2 INLINE int32_t integer_sum_of_8(__m256i v) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

/* sum + the sums of four adjacent products; |x| <= 127 keeps the pairs' 16 bits exact. */
AVX2 INLINE __m256i add_products(__m256i sum, __m256i weights, __m256i x) {
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(weights, x));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* changes[j] = bytes[j] xor bytes[j + 16]. */
AVX2 INLINE void find_changes(const uint8_t *restrict bytes, int n, uint8_t *restrict changes) {
    for (int j = 0; j < n; j++) changes[j] = bytes[j] ^ bytes[j + 16];
}

/* Take bytes 0 ... 63 of a table by 32 indices: index[k] = index[0] - 16 k. A byte permute gives 0 where an index is
 * negative; each of the later three changes the byte of the 16 places before into that of its own. */
AVX2 INLINE __m256i take(const uint8_t *table, const uint8_t *changes, const __m256i index[4]) {
    const uint8_t *pieces[4] = {table, changes, changes + 16, changes + 32};
    __m256i part[4];
    for (int k = 0; k < 4; k++) {
        __m256i piece = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)pieces[k]));
        part[k] = _mm256_shuffle_epi8(piece, index[k]);
    }
    return _mm256_xor_si256(_mm256_xor_si256(part[0], part[1]), _mm256_xor_si256(part[2], part[3]));
}

AVX2 INLINE void four_indices(const uint8_t *offsets, __m256i index[4]) {
    index[0] = _mm256_loadu_si256((const __m256i *)offsets);
    for (int k = 1; k < 4; k++) index[k] = _mm256_sub_epi8(index[0], _mm256_set1_epi8((char)(16 * k)));
}

/* The same without changes, by blends: faster where one index takes from four tables. */
AVX2 INLINE __m256i take_blended(const uint8_t *table, __m256i index, __m256i bit4, __m256i bit5) {
    __m256i part[4];
    for (int k = 0; k < 4; k++) {
        __m256i piece = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(table + 16 * k)));
        part[k] = _mm256_shuffle_epi8(piece, index);
    }
    return _mm256_blendv_epi8(_mm256_blendv_epi8(part[0], part[1], bit4), _mm256_blendv_epi8(part[2], part[3], bit4),
                              bit5);
}

AVX2 static void dense_fp32_avx2(const hp_matrix *m, const hp_work *w) {
    int stride = (m->columns + 15) / 16 * 16;
    const float *value = m->values, *x = w->input;
    for (int i = 0; i < m->rows; i += 4) {
        __m256 sum[4], more[4];
        for (int k = 0; k < 4; k++) sum[k] = more[k] = _mm256_setzero_ps();
        for (int j = 0; j < stride; j += 16, value += 64) {
            __m256 left = _mm256_loadu_ps(x + j), right = _mm256_loadu_ps(x + j + 8);
            for (int k = 0; k < 4; k++) {
                sum[k] = _mm256_fmadd_ps(_mm256_loadu_ps(value + 16 * k), left, sum[k]);
                more[k] = _mm256_fmadd_ps(_mm256_loadu_ps(value + 16 * k + 8), right, more[k]);
            }
        }
        for (int k = 0; k < 4; k++) w->floats[i + k] = sum_of_8(_mm256_add_ps(sum[k], more[k]));
    }
}

AVX2 static void dense_int8_avx2(const hp_matrix *m, const hp_work *w) {
    int stride = (m->columns + 63) / 64 * 64;
    const int8_t *value = m->values;
    for (int i = 0; i < m->rows; i += 4) {
        __m256i sum[4];
        for (int k = 0; k < 4; k++) sum[k] = _mm256_setzero_si256();
        for (int j = 0; j < stride; j += 64, value += 256) {
            for (int k = 0; k < 4; k++) __builtin_prefetch(value + 2 * AHEAD + 64 * k);
            __m256i left = _mm256_loadu_si256((const __m256i *)(w->signed8 + j));
            __m256i right = _mm256_loadu_si256((const __m256i *)(w->signed8 + j + 32));
            for (int k = 0; k < 4; k++) {
                sum[k] = add_products(sum[k], _mm256_loadu_si256((const __m256i *)(value + 64 * k)), left);
                sum[k] = add_products(sum[k], _mm256_loadu_si256((const __m256i *)(value + 64 * k + 32)), right);
            }
        }
        for (int k = 0; k < 4; k++) w->integers[i + k] = integer_sum_of_8(sum[k]);
    }
}

AVX2 static void window_fp32_avx2(const hp_matrix *m, const hp_work *w) {
    const float *values = m->values;
    for (int g = 0; g < m->groups; g++) {
        __m256 sum[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        for (uint32_t step = m->starts[g]; step < m->starts[g + 1]; step++) {
            const uint8_t *table = w->planes + m->bases[step], *offset = m->offsets + (size_t)step * STEP;
            const float *value = values + (size_t)step * STEP;
            for (int half = 0; half < 2; half++, value += 8) {
                __m256i index = _mm256_loadu_si256((const __m256i *)(offset + 32 * half)), byte[4];
                __m256i bit4 = _mm256_slli_epi16(index, 3), bit5 = _mm256_slli_epi16(index, 2);
                for (int k = 0; k < 4; k++) byte[k] = take_blended(table + k * w->plane, index, bit4, bit5);
                __m256i low01 = _mm256_unpacklo_epi8(byte[0], byte[1]), high01 = _mm256_unpackhi_epi8(byte[0], byte[1]);
                __m256i low23 = _mm256_unpacklo_epi8(byte[2], byte[3]), high23 = _mm256_unpackhi_epi8(byte[2], byte[3]);
                __m256 x0 = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low01, low23));
                __m256 x1 = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low01, low23));
                __m256 x2 = _mm256_castsi256_ps(_mm256_unpacklo_epi16(high01, high23));
                __m256 x3 = _mm256_castsi256_ps(_mm256_unpackhi_epi16(high01, high23));
                sum[half] = _mm256_fmadd_ps(_mm256_loadu_ps(value), x0, sum[half]);
                sum[half] = _mm256_fmadd_ps(_mm256_loadu_ps(value + LANES), x1, sum[half]);
                sum[half] = _mm256_fmadd_ps(_mm256_loadu_ps(value + 2 * LANES), x2, sum[half]);
                sum[half] = _mm256_fmadd_ps(_mm256_loadu_ps(value + 3 * LANES), x3, sum[half]);
            }
        }
        _mm256_storeu_ps(w->floats + g * LANES, sum[0]);
        _mm256_storeu_ps(w->floats + g * LANES + 8, sum[1]);
    }
}

AVX2 static void window_int8_avx2(const hp_matrix *m, const hp_work *w) {
    const int8_t *values = m->values;
    find_changes((const uint8_t *)w->signed8, m->columns + PAD - 16, w->changes);
    for (int g = 0; g < m->groups; g++) {
        __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (uint32_t step = m->starts[g]; step < m->starts[g + 1]; step++) {
            const uint8_t *table = (const uint8_t *)w->signed8 + m->bases[step], *changes = w->changes + m->bases[step];
            __builtin_prefetch(values + (size_t)step * STEP + AHEAD);
            __builtin_prefetch(m->offsets + (size_t)step * STEP + AHEAD);
            for (int half = 0; half < 2; half++) {
                size_t place = (size_t)step * STEP + 32 * half;
                __m256i index[4];
                four_indices(m->offsets + place, index);
                __m256i x = take(table, changes, index);
                sum[half] = add_products(sum[half], _mm256_loadu_si256((const __m256i *)(values + place)), x);
            }
        }
        _mm256_storeu_si256((__m256i *)(w->integers + g * LANES), sum[0]);
        _mm256_storeu_si256((__m256i *)(w->integers + g * LANES + 8), sum[1]);
    }
}

AVX2 static void block_fp32_avx2(const hp_matrix *m, const hp_work *w) {
    const float *values = m->values;
    for (int g = 0; g < m->groups; g++) {
        __m256 sum[4];
        for (int k = 0; k < 4; k++) sum[k] = _mm256_setzero_ps();
        for (uint32_t block = m->starts[g]; block < m->starts[g + 1]; block++) {
            const float *x = w->input + 4 * m->bases[block], *value = values + (size_t)block * 32;
            for (int k = 0; k < 4; k++)
                sum[k] = _mm256_fmadd_ps(_mm256_loadu_ps(value + 8 * k), _mm256_broadcast_ss(x + k), sum[k]);
        }
        __m256 left = _mm256_add_ps(sum[0], sum[1]), right = _mm256_add_ps(sum[2], sum[3]);
        _mm256_storeu_ps(w->floats + g * 8, _mm256_add_ps(left, right));
    }
}

AVX2 static void block_int8_avx2(const hp_matrix *m, const hp_work *w) {
    const int8_t *values = m->values;
    for (int g = 0; g < m->groups; g++) {
        __m256i sum = _mm256_setzero_si256();
        for (uint32_t block = m->starts[g]; block < m->starts[g + 1]; block++) {
            int32_t four;
            memcpy(&four, w->signed8 + 4 * m->bases[block], 4);
            __builtin_prefetch(values + (size_t)block * 32 + AHEAD);
            __m256i weights = _mm256_loadu_si256((const __m256i *)(values + (size_t)block * 32));
            sum = add_products(sum, weights, _mm256_set1_epi32(four));
        }
        _mm256_storeu_si256((__m256i *)(w->integers + g * 8), sum);
    }
}

AVX2 static float quantise_avx2(const float *x, int n, int8_t *q, uint8_t *u) { return quantise_body(x, n, q, u); }
AVX2 static void split_avx2(const float *x, int n, uint8_t *planes, int64_t plane) { split_body(x, n, planes, plane); }
ELEMENTWISE(avx2, AVX2, 0)

/* ---------------------------------------------------------------- AVX-512 VNNI and VBMI: u = q + 128 is unsigned */

AVX512 static void dense_int8_avx512(const hp_matrix *m, const hp_work *w) {
    int stride = (m->columns + 63) / 64 * 64;
    const int8_t *value = m->values;
    for (int i = 0; i < m->rows; i += 4) {
        __m512i sum[4];
        for (int k = 0; k < 4; k++) sum[k] = _mm512_setzero_si512();
        for (int j = 0; j < stride; j += 64, value += 256) {
            __m512i x = _mm512_loadu_si512(w->unsigned8 + j);
            for (int k = 0; k < 4; k++) sum[k] = _mm512_dpbusd_epi32(sum[k], x, _mm512_loadu_si512(value + 64 * k));
        }
        for (int k = 0; k < 4; k++) w->integers[i + k] = _mm512_reduce_add_epi32(sum[k]);
    }
}

AVX512 static void window_fp32_avx512(const hp_matrix *m, const hp_work *w) {
    const float *values = m->values;
    for (int g = 0; g < m->groups; g++) {
        __m512 sum = _mm512_setzero_ps(), more = _mm512_setzero_ps();
        for (uint32_t step = m->starts[g]; step < m->starts[g + 1]; step++) {
            const uint8_t *table = w->planes + m->bases[step];
            const float *value = values + (size_t)step * STEP;
            __m512i index = _mm512_loadu_si512(m->offsets + (size_t)step * STEP), byte[4];
            for (int k = 0; k < 4; k++)
                byte[k] = _mm512_permutexvar_epi8(index, _mm512_loadu_si512(table + k * w->plane));
            __m512i low01 = _mm512_unpacklo_epi8(byte[0], byte[1]), high01 = _mm512_unpackhi_epi8(byte[0], byte[1]);
            __m512i low23 = _mm512_unpacklo_epi8(byte[2], byte[3]), high23 = _mm512_unpackhi_epi8(byte[2], byte[3]);
            __m512 x0 = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low01, low23));
            __m512 x1 = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low01, low23));
            __m512 x2 = _mm512_castsi512_ps(_mm512_unpacklo_epi16(high01, high23));
            __m512 x3 = _mm512_castsi512_ps(_mm512_unpackhi_epi16(high01, high23));
            sum = _mm512_fmadd_ps(_mm512_loadu_ps(value), x0, sum);
            more = _mm512_fmadd_ps(_mm512_loadu_ps(value + LANES), x1, more);
            sum = _mm512_fmadd_ps(_mm512_loadu_ps(value + 2 * LANES), x2, sum);
            more = _mm512_fmadd_ps(_mm512_loadu_ps(value + 3 * LANES), x3, more);
        }
        _mm512_storeu_ps(w->floats + g * LANES, _mm512_add_ps(sum, more));
    }
}

AVX512 INLINE __m512i window_step(const hp_matrix *m, const hp_work *w, uint32_t step, __m512i sum) {
    __m512i index = _mm512_loadu_si512(m->offsets + (size_t)step * STEP);
    __m512i x = _mm512_permutexvar_epi8(index, _mm512_loadu_si512(w->unsigned8 + m->bases[step]));
    return _mm512_dpbusd_epi32(sum, x, _mm512_loadu_si512((const int8_t *)m->values + (size_t)step * STEP));
}

AVX512 static void window_int8_avx512(const hp_matrix *m, const hp_work *w) {
    for (int g = 0; g < m->groups; g++) {
        __m512i sum = _mm512_setzero_si512(), more = _mm512_setzero_si512(); /* two: a product takes five cycles */
        uint32_t step = m->starts[g], end = m->starts[g + 1];
        for (; step + 1 < end; step += 2) {
            sum = window_step(m, w, step, sum);
            more = window_step(m, w, step + 1, more);
        }
        if (step < end) sum = window_step(m, w, step, sum);
        _mm512_storeu_si512(w->integers + g * LANES, _mm512_add_epi32(sum, more));
    }
}

AVX512 INLINE __m256i four_inputs(const hp_matrix *m, const hp_work *w, uint32_t block) {
    int32_t four;
    memcpy(&four, w->unsigned8 + 4 * m->bases[block], 4);
    return _mm256_set1_epi32(four);
}

AVX512 INLINE __m512i two_blocks(const hp_matrix *m, const hp_work *w, uint32_t block, __m512i sum) {
    __m512i x = _mm512_castsi256_si512(four_inputs(m, w, block));
    x = _mm512_inserti64x4(x, four_inputs(m, w, block + 1), 1);
    return _mm512_dpbusd_epi32(sum, x, _mm512_loadu_si512((const int8_t *)m->values + (size_t)block * 32));
}

AVX512 static void block_int8_avx512(const hp_matrix *m, const hp_work *w) {
    for (int g = 0; g < m->groups; g++) {
        __m512i sum = _mm512_setzero_si512(), more = _mm512_setzero_si512();
        uint32_t block = m->starts[g], end = m->starts[g + 1];
        for (; block + 3 < end; block += 4) {
            sum = two_blocks(m, w, block, sum);
            more = two_blocks(m, w, block + 2, more);
        }
        for (; block + 1 < end; block += 2) sum = two_blocks(m, w, block, sum);
        sum = _mm512_add_epi32(sum, more);
        __m256i eight = _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
        if (block < end) {
            const __m256i *weights = (const __m256i *)((const int8_t *)m->values + (size_t)block * 32);
            eight = _mm256_dpbusd_epi32(eight, four_inputs(m, w, block), _mm256_loadu_si256(weights));
        }
        _mm256_storeu_si256((__m256i *)(w->integers + g * 8), eight);
    }
}

ELEMENTWISE(avx512, AVX512, 128) /* sums(w u) - 128 sums(w) = sums(w q) */
#endif

/* ---------------------------------------------------------------- NEON */
#if defined(__aarch64__)

/* Sums of four adjacent products of 16 bytes. */
INLINE int32x4_t add_products_neon(int32x4_t sum, int8x16_t weights, int8x16_t x) {
    int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(weights), vget_low_s8(x)));
    int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(weights), vget_high_s8(x)));
    return vaddq_s32(sum, vpaddq_s32(low, high));
}

INLINE uint8x16x4_t table_neon(const uint8_t *table) {
    uint8x16x4_t all = {{vld1q_u8(table), vld1q_u8(table + 16), vld1q_u8(table + 32), vld1q_u8(table + 48)}};
    return all;
}

static void dense_int8_neon(const hp_matrix *m, const hp_work *w) {
    int stride = (m->columns + 63) / 64 * 64;
    const int8_t *value = m->values;
    for (int i = 0; i < m->rows; i += 4) {
        int32x4_t sum[4];
        for (int k = 0; k < 4; k++) sum[k] = vdupq_n_s32(0);
        for (int j = 0; j < stride; j += 64)
            for (int k = 0; k < 4; k++)
                for (int part = 0; part < 64; part += 16, value += 16)
                    sum[k] = add_products_neon(sum[k], vld1q_s8(value), vld1q_s8(w->signed8 + j + part));
        for (int k = 0; k < 4; k++) w->integers[i + k] = vaddvq_s32(sum[k]);
    }
}

static void window_fp32_neon(const hp_matrix *m, const hp_work *w) {
    const float *values = m->values;
    for (int g = 0; g < m->groups; g++) {
        float32x4_t sum[4];
        for (int k = 0; k < 4; k++) sum[k] = vdupq_n_f32(0.0f);
        for (uint32_t step = m->starts[g]; step < m->starts[g + 1]; step++) {
            uint8x16x4_t table[4];
            for (int k = 0; k < 4; k++) table[k] = table_neon(w->planes + k * w->plane + m->bases[step]);
            for (int quarter = 0; quarter < 4; quarter++) {
                const float *value = values + (size_t)step * STEP + 4 * quarter;
                uint8x16_t index = vld1q_u8(m->offsets + (size_t)step * STEP + 16 * quarter), byte[4];
                for (int k = 0; k < 4; k++) byte[k] = vqtbl4q_u8(table[k], index);
                uint16x8_t low01 = vreinterpretq_u16_u8(vzip1q_u8(byte[0], byte[1]));
                uint16x8_t high01 = vreinterpretq_u16_u8(vzip2q_u8(byte[0], byte[1]));
                uint16x8_t low23 = vreinterpretq_u16_u8(vzip1q_u8(byte[2], byte[3]));
                uint16x8_t high23 = vreinterpretq_u16_u8(vzip2q_u8(byte[2], byte[3]));
                float32x4_t x0 = vreinterpretq_f32_u16(vzip1q_u16(low01, low23));
                float32x4_t x1 = vreinterpretq_f32_u16(vzip2q_u16(low01, low23));
                float32x4_t x2 = vreinterpretq_f32_u16(vzip1q_u16(high01, high23));
                float32x4_t x3 = vreinterpretq_f32_u16(vzip2q_u16(high01, high23));
                sum[quarter] = vfmaq_f32(sum[quarter], vld1q_f32(value), x0);
                sum[quarter] = vfmaq_f32(sum[quarter], vld1q_f32(value + LANES), x1);
                sum[quarter] = vfmaq_f32(sum[quarter], vld1q_f32(value + 2 * LANES), x2);
                sum[quarter] = vfmaq_f32(sum[quarter], vld1q_f32(value + 3 * LANES), x3);
            }
        }
        for (int k = 0; k < 4; k++) vst1q_f32(w->floats + g * LANES + 4 * k, sum[k]);
    }
}

static void window_int8_neon(const hp_matrix *m, const hp_work *w) {
    const int8_t *values = m->values;
    for (int g = 0; g < m->groups; g++) {
        int32x4_t sum[4];
        for (int k = 0; k < 4; k++) sum[k] = vdupq_n_s32(0);
        for (uint32_t step = m->starts[g]; step < m->starts[g + 1]; step++) {
            uint8x16x4_t table = table_neon((const uint8_t *)w->signed8 + m->bases[step]);
            for (int k = 0; k < 4; k++) {
                size_t place = (size_t)step * STEP + 16 * k;
                int8x16_t x = vreinterpretq_s8_u8(vqtbl4q_u8(table, vld1q_u8(m->offsets + place)));
                sum[k] = add_products_neon(sum[k], vld1q_s8(values + place), x);
            }
        }
        for (int k = 0; k < 4; k++) vst1q_s32(w->integers + g * LANES + 4 * k, sum[k]);
    }
}

static void block_int8_neon(const hp_matrix *m, const hp_work *w) {
    const int8_t *values = m->values;
    for (int g = 0; g < m->groups; g++) {
        int32x4_t sum[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
        for (uint32_t block = m->starts[g]; block < m->starts[g + 1]; block++) {
            int32_t four;
            memcpy(&four, w->signed8 + 4 * m->bases[block], 4);
            int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
            for (int k = 0; k < 2; k++)
                sum[k] = add_products_neon(sum[k], vld1q_s8(values + (size_t)block * 32 + 16 * k), x);
        }
        for (int k = 0; k < 2; k++) vst1q_s32(w->integers + g * 8 + 4 * k, sum[k]);
    }
}
#endif

/* ---------------------------------------------------------------- builds */

typedef void sum_kernel(const hp_matrix *, const hp_work *);
typedef struct {
    sum_kernel *sums[FORMATS];
    float (*quantise)(const float *, int, int8_t *, uint8_t *);
    void (*split)(const float *, int, uint8_t *, int64_t);
    void (*finish_int8)(const hp_matrix *, const hp_work *, float, float *);
    void (*lstm)(int, const float *, const float *, const float *, float *, float *);
    void (*gru)(int, const float *, const float *, const float *, const float *, float *);
    void (*rnn)(int, int, const float *, const float *, const float *, float *);
    void (*rhn)(int, int, int, const float *, const float *, const float *, float *);
} build_kernels;

static const build_kernels builds[BUILDS] = {
    {{dense_fp32_plain, dense_int8_plain, window_fp32_plain, window_int8_plain, block_fp32_plain, block_int8_plain},
     quantise_plain, split_plain, finish_int8_plain, lstm_plain, gru_plain, rnn_plain, rhn_plain},
#if defined(__x86_64__)
    {{dense_fp32_avx2, dense_int8_avx2, window_fp32_avx2, window_int8_avx2, block_fp32_avx2, block_int8_avx2},
     quantise_avx2, split_avx2, finish_int8_avx2, lstm_avx2, gru_avx2, rnn_avx2, rhn_avx2},
    {{dense_fp32_avx2, dense_int8_avx512, window_fp32_avx512, window_int8_avx512, block_fp32_avx2, block_int8_avx512},
     quantise_avx2, split_avx2, finish_int8_avx512, lstm_avx512, gru_avx512, rnn_avx512, rhn_avx512},
#elif defined(__aarch64__)
    {{0}, 0, 0, 0, 0, 0, 0, 0},
    {{0}, 0, 0, 0, 0, 0, 0, 0},
    {{dense_fp32_plain, dense_int8_neon, window_fp32_neon, window_int8_neon, block_fp32_plain, block_int8_neon},
     quantise_plain, split_plain, finish_int8_plain, lstm_plain, gru_plain, rnn_plain, rhn_plain},
#endif
};

/* Whether this processor can run a build. */
int32_t hp_has_build(int32_t build) {
    if (build == PLAIN) return 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (build == AVX2_BUILD) return avx2;
    if (build == AVX512_BUILD)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
               __builtin_cpu_supports("avx512vnni");
#elif defined(__aarch64__)
    if (build == NEON_BUILD) return 1;
#endif
    return 0;
}

/* ---------------------------------------------------------------- products and steps */

/* y (rows) = W x (columns). */
void hp_product(int32_t build, const hp_matrix *m, const hp_work *w, const float *x, float *y) {
    const build_kernels *kernels = &builds[build];
    if (m->format == DENSE_INT8 || m->format == WINDOW_INT8 || m->format == BLOCK_INT8) {
        float s = kernels->quantise(x, m->columns, w->signed8, w->unsigned8);
        kernels->sums[m->format](m, w);
        kernels->finish_int8(m, w, s, y);
        return;
    }
    memcpy(w->input, x, (size_t)m->columns * sizeof *x);
    memset(w->input + m->columns, 0, PAD * sizeof *x);
    if (m->format == WINDOW_FP32) kernels->split(x, m->columns, w->planes, w->plane);
    kernels->sums[m->format](m, w);
    if (m->order)
        put_in_order(m->rows, m->order, w->floats, y);
    else
        memcpy(y, w->floats, (size_t)m->rows * sizeof *y);
}

static void layer_step(const hp_plan *plan, const hp_layer *layer, const float *x, float *h) {
    const build_kernels *kernels = &builds[plan->build];
    float *a = plan->from_input, *b = plan->from_state;
    int n = layer->hidden;
    hp_product(plan->build, layer->input, &plan->work, x, a);
    hp_product(plan->build, layer->recurrent, &plan->work, h, b);
    switch (layer->cell) {
    case LSTM: kernels->lstm(n, a, b, layer->input_bias, h, h + n); return;
    case GRU: kernels->gru(n, a, b, layer->input_bias, layer->recurrent_bias, h); return;
    case RNN_TANH:
    case RNN_RELU: kernels->rnn(n, layer->cell == RNN_RELU, a, b, layer->input_bias, h); return;
    }
    int coupled = layer->cell == RHN, rows = (coupled ? 2 : 3) * n;
    kernels->rhn(n, coupled, 1, a, b, layer->recurrent_bias, h);
    for (int d = 1; d < layer->depth; d++) {
        hp_product(plan->build, layer->recurrent + d, &plan->work, h, b);
        kernels->rhn(n, coupled, 0, a, b, layer->recurrent_bias + (size_t)d * rows, h);
    }
}

/* One step of `batch` sequences: the state (batch, S) of each holds h, or h and c, of every layer.
 *
 * input: int64 tokens (batch,) with an embedding, or float vectors (batch, inputs).
 * output: (batch, outputs): the head's, or the top layer's h without one.
 * Returns 0, or 1 if a token is outside the vocabulary; the state is then unchanged. */
int32_t hp_step(const hp_plan *plan, int32_t batch, const void *input, float *state, float *output) {
    const int64_t *tokens = input;
    for (int b = 0; plan->embedding && b < batch; b++)
        if (tokens[b] < 0 || tokens[b] >= plan->vocabulary) return 1;
    for (int b = 0; b < batch; b++, state += plan->state, output += plan->outputs) {
        const float *x = plan->embedding ? plan->embedding + (size_t)tokens[b] * plan->inputs
                                         : (const float *)input + (size_t)b * plan->inputs;
        if (plan->mean) {
            for (int j = 0; j < plan->inputs; j++) plan->vector[j] = (x[j] - plan->mean[j]) / plan->deviation[j];
            x = plan->vector;
        }
        float *h = state;
        for (int l = 0; l < plan->layers; l++) {
            layer_step(plan, plan->layer + l, x, h);
            x = h;
            h += plan->layer[l].hidden * (plan->layer[l].cell == LSTM ? 2 : 1);
        }
        if (plan->head) {
            hp_product(plan->build, plan->head, &plan->work, x, output);
            for (int j = 0; j < plan->outputs; j++) output[j] += plan->head_bias[j];
        } else {
            memcpy(output, x, (size_t)plan->outputs * sizeof *output);
        }
    }
    return 0;
}
