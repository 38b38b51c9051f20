/* What the functions of kernels.c, decoding.c and tiles.c are made of: vectors, rows, products. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
enum { LANES = 16 };
#else
enum { LANES = 8 };
#endif
enum { STEP = 2 * LANES };

typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));
typedef int32_t choice __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));
typedef float eight __attribute__((vector_size(8 * sizeof(float)), aligned(sizeof(float))));

static inline lanes load(const float *x) { return *(const lanes *)x; }
static inline void store(float *x, lanes values) { *(lanes *)x = values; }
static inline eight load8(const float *x) { return *(const eight *)x; }
static inline void store8(float *x, eight values) { *(eight *)x = values; }
static inline long rounded_up(long length) { return (length + STEP - 1) / STEP * STEP; }

/* e^x for x in [-87, 88], and that of the nearer end outside: 2^n · e^r with |r| ≤ ln 2 / 2, and e^r
 * by the polynomial of the Cephes library. Unlike expf it is computed for many numbers at once. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return (p * r * r + r + 1.0f) * power;
}

/* By lanes, because compilers do not where there may be a NaN (which is never the largest here). */
static inline float largest_of(const float *x, long length) {
    lanes most = {0};
    most -= INFINITY;
    long i = 0;
    for (; i + LANES <= length; i += LANES) {
        lanes next = load(x + i);
        choice larger = next > most;
        most = (lanes)(((choice)next & larger) | ((choice)most & ~larger));
    }
    float largest = most[0];
    for (long j = 1; j < LANES; j++) largest = most[j] > largest ? most[j] : largest;
    for (; i < length; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

static inline float normalise(const float *x, const float *weight, float *out, long width,
                              float eps) {
    float squares = 0;
    for (long i = 0; i < width; i++) squares += x[i] * x[i];
    float inverse = 1 / sqrtf(squares / width + eps);
    for (long i = 0; i < width; i++) out[i] = weight[i] * x[i] * inverse;
    return inverse;
}

static inline void gated(const float *gate, const float *up, float *out, long width) {
    for (long i = 0; i < width; i++) out[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

static inline void rotate_row(const float *x, const float *cos, const float *sin, float direction,
                              float *out, long step, long width) {
    long half = width / 2;
    for (long i = 0; i < half; i++) {
        float low = x[i], high = x[i + half], s = direction * sin[i];
        out[i * step] = low * cos[i] - high * s;
        out[(i + half) * step] = high * cos[i] + low * s;
    }
}

/* Turns `length` scores into softmax(scale · scores), and what follows them up to `end` into zeros;
 * returns log Σ e^(scale · score). The row has room for whole vectors, which are faster than a rest. */
static inline float softmax(float *x, long length, long end, float scale) {
    float largest = largest_of(x, length), sum = 0;
    long whole = rounded_up(length);
    for (long t = 0; t < whole; t++) x[t] = exponential((x[t] - largest) * scale);
    memset(x + length, 0, ((end > whole ? end : whole) - length) * sizeof(float));
    for (long t = 0; t < whole; t++) sum += x[t];
    float inverse = 1 / sum;
    for (long t = 0; t < whole; t++) x[t] *= inverse;
    return largest * scale + logf(sum);
}

enum { ROWS = LANES == 16 ? 8 : 4 }; /* so many sums as there are registers for */

/* out[m, n] = a[m, k] · b[k, n], or out + that. Entries of a are a_row apart from row to row and a_step
 * within a row; n is a multiple of STEP. */
static inline void multiply(const float *a, long a_row, long a_step, const float *b, long b_row,
                            float *out, long out_row, long m, long n, long k, int add) {
    for (long i = 0; i < m; i += ROWS) {
        const float *rows[ROWS]; /* where fewer are left, the last one again */
        for (long r = 0; r < ROWS; r++) rows[r] = a + (i + r < m ? i + r : m - 1) * a_row;
        for (long j = 0; j < n; j += STEP) {
            lanes low[ROWS] = {0}, high[ROWS] = {0};
            for (long s = 0; s < k; s++) {
                lanes first = load(b + s * b_row + j), second = load(b + s * b_row + j + LANES);
                for (long r = 0; r < ROWS; r++) {
                    low[r] += rows[r][s * a_step] * first;
                    high[r] += rows[r][s * a_step] * second;
                }
            }
            for (long r = 0; r < ROWS && i + r < m; r++) {
                float *place = out + (i + r) * out_row + j;
                store(place, add ? load(place) + low[r] : low[r]);
                store(place + LANES, add ? load(place + LANES) + high[r] : high[r]);
            }
        }
    }
}
