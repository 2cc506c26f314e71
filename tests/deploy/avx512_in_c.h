/* The AVX-512 intrinsics of kernel.c in plain C, so that its functions run on a processor without them.
 * Include before kernel.c. Each is written after Intel's description of the instruction. */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define AVX512 __attribute__((target("avx2,fma")))

typedef struct { uint8_t byte[64]; } vector512;

static vector512 zero512(void) { vector512 v; memset(&v, 0, 64); return v; }
static vector512 load512(const void *p) { vector512 v; memcpy(&v, p, 64); return v; }
static void store512(void *p, vector512 v) { memcpy(p, &v, 64); }

static void dot4(int count, uint8_t *sum, const uint8_t *u, const uint8_t *s) {
    for (int lane = 0; lane < count; lane++) {
        int32_t total;
        memcpy(&total, sum + 4 * lane, 4);
        for (int k = 4 * lane; k < 4 * lane + 4; k++) total += (int32_t)u[k] * (int8_t)s[k];
        memcpy(sum + 4 * lane, &total, 4);
    }
}
static vector512 dpbusd512(vector512 sum, vector512 u, vector512 s) { dot4(16, sum.byte, u.byte, s.byte); return sum; }
AVX512 static __m256i dpbusd256(__m256i sum, __m256i u, __m256i s) {
    uint8_t a[32], b[32], c[32];
    memcpy(a, &sum, 32); memcpy(b, &u, 32); memcpy(c, &s, 32);
    dot4(8, a, b, c);
    memcpy(&sum, a, 32);
    return sum;
}
static vector512 sum512(vector512 a, vector512 b) {
    uint32_t x[16], y[16];
    memcpy(x, &a, 64); memcpy(y, &b, 64);
    for (int k = 0; k < 16; k++) x[k] += y[k];
    memcpy(&a, x, 64);
    return a;
}
AVX512 static vector512 insert512(vector512 v, __m256i half, int place) {
    memcpy(v.byte + 32 * place, &half, 32);
    return v;
}
AVX512 static __m256i half512(vector512 v, int place) {
    __m256i half;
    memcpy(&half, v.byte + 32 * place, 32);
    return half;
}
static int32_t reduce512(vector512 v) {
    int32_t lane[16], sum = 0;
    memcpy(lane, &v, 64);
    for (int k = 0; k < 16; k++) sum += lane[k];
    return sum;
}
static vector512 permute512(vector512 index, vector512 table) {
    vector512 v;
    for (int k = 0; k < 64; k++) v.byte[k] = table.byte[index.byte[k] & 63];
    return v;
}
static vector512 unpack512(vector512 a, vector512 b, int width, int high) {
    vector512 v;
    for (int lane = 0; lane < 64; lane += 16)
        for (int k = 0; k < 8 / width; k++) {
            memcpy(v.byte + lane + 2 * k * width, a.byte + lane + 8 * high + k * width, (size_t)width);
            memcpy(v.byte + lane + (2 * k + 1) * width, b.byte + lane + 8 * high + k * width, (size_t)width);
        }
    return v;
}
static vector512 fma512(vector512 a, vector512 b, vector512 c, int multiply) {
    float x[16], y[16], z[16];
    memcpy(x, &a, 64); memcpy(y, &b, 64); memcpy(z, &c, 64);
    for (int k = 0; k < 16; k++) z[k] = multiply ? x[k] * y[k] + z[k] : x[k] + z[k];
    memcpy(&c, z, 64);
    return c;
}

#define __m512i vector512
#define __m512 vector512
#define _mm512_setzero_si512 zero512
#define _mm512_setzero_ps zero512
#define _mm512_loadu_si512 load512
#define _mm512_loadu_ps load512
#define _mm512_storeu_si512 store512
#define _mm512_storeu_ps store512
#define _mm512_castsi512_ps(v) (v)
#define _mm512_dpbusd_epi32 dpbusd512
#define _mm512_add_epi32 sum512
#define _mm512_castsi256_si512(half) insert512(zero512(), half, 0)
#define _mm512_inserti64x4 insert512
#define _mm512_castsi512_si256(v) half512(v, 0)
#define _mm512_extracti64x4_epi64 half512
#undef _mm256_dpbusd_epi32
#define _mm256_dpbusd_epi32 dpbusd256
#define _mm512_reduce_add_epi32 reduce512
#define _mm512_permutexvar_epi8 permute512
#define _mm512_unpacklo_epi8(a, b) unpack512(a, b, 1, 0)
#define _mm512_unpackhi_epi8(a, b) unpack512(a, b, 1, 1)
#define _mm512_unpacklo_epi16(a, b) unpack512(a, b, 2, 0)
#define _mm512_unpackhi_epi16(a, b) unpack512(a, b, 2, 1)
#define _mm512_fmadd_ps(a, b, c) fma512(a, b, c, 1)
#define _mm512_add_ps(a, b) fma512(a, a, b, 0)
