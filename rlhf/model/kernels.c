/* Steps of the transformer that torch composes of several operations, each of which reads and writes
 * all numbers again; here they are one pass each. float32, contiguous, last dimension first to vary.
 *
 * rlhf/model/kernels.py compiles this file, sets TILE, BLOCK and WIDTH, and links it to no OpenMP: the one
 * that torch has loaded is used, and so its threads. A scratch has one part for each of `threads`. */

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

/* --- normalisation: out = weight · x · inverse with inverse = 1 / √(mean x² + ε) --- */

static inline float normalise(const float *x, const float *weight, float *out, long width,
                              float eps) {
    float squares = 0;
    for (long i = 0; i < width; i++) squares += x[i] * x[i];
    float inverse = 1 / sqrtf(squares / width + eps);
    for (long i = 0; i < width; i++) out[i] = weight[i] * x[i] * inverse;
    return inverse;
}

void rms_norm(const float *x, const float *weight, float *out, float *inverse, long rows,
              long width, float eps) {
#pragma omp parallel for
    for (long row = 0; row < rows; row++)
        inverse[row] = normalise(x + row * width, weight, out + row * width, width, eps);
}

/* of_weight has a row of zeros for each of `parts` of the rows, and the first becomes their sum. The
 * number of parts, unlike that of threads, is the same everywhere, and so is the order of the sums. */
void rms_norm_backward(const float *grad, const float *x, const float *inverse,
                       const float *weight, float *of_x, float *of_weight, long parts, long rows,
                       long width) {
#pragma omp parallel for
    for (long part = 0; part < parts; part++) {
        float *share = of_weight + part * width;
        for (long row = part * rows / parts; row < (part + 1) * rows / parts; row++) {
            const float *g = grad + row * width, *in = x + row * width;
            float scale = inverse[row], dot = 0;
            for (long i = 0; i < width; i++) {
                dot += g[i] * weight[i] * in[i];
                share[i] += g[i] * in[i] * scale;
            }
            float shared = dot * scale * scale / width;
            float *out = of_x + row * width;
            for (long i = 0; i < width; i++) out[i] = (g[i] * weight[i] - in[i] * shared) * scale;
        }
    }
    for (long part = 1; part < parts; part++)
        for (long i = 0; i < width; i++) of_weight[i] += of_weight[part * width + i];
}

/* --- SwiGLU: out = silu(gate) · up; rows of gate and of up are `stride` apart --- */

static inline void gated(const float *gate, const float *up, float *out, long width) {
    for (long i = 0; i < width; i++) out[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

void swiglu(const float *gate, const float *up, float *out, long rows, long width, long stride) {
#pragma omp parallel for
    for (long row = 0; row < rows; row++)
        gated(gate + row * stride, up + row * stride, out + row * width, width);
}

void swiglu_backward(const float *grad, const float *gate, const float *up, float *of_gate,
                     float *of_up, long size) {
#pragma omp parallel for
    for (long i = 0; i < size; i++) {
        float s = sigmoid(gate[i]);
        of_up[i] = grad[i] * gate[i] * s;
        of_gate[i] = grad[i] * up[i] * s * (1 + gate[i] * (1 - s));
    }
}

/* --- rotation of [batch, heads, length, width] by the angles of [batch, length]; direction is 1, or
 * -1 for the way back --- */

static inline void rotate_row(const float *x, const float *cos, const float *sin, float direction,
                              float *out, long step, long width) {
    long half = width / 2;
    for (long i = 0; i < half; i++) {
        float low = x[i], high = x[i + half], s = direction * sin[i];
        out[i * step] = low * cos[i] - high * s;
        out[(i + half) * step] = high * cos[i] + low * s;
    }
}

void rotate(const float *x, const float *cos, const float *sin, float *out, long batch, long heads,
            long length, long width, float direction) {
#pragma omp parallel for
    for (long row = 0; row < batch * heads * length; row++) {
        long angle = row / (heads * length) * length + row % length;
        rotate_row(x + row * width, cos + angle * width, sin + angle * width, direction,
                   out + row * width, 1, width);
    }
}

/* --- log softmax(logits · inverse_temperature)[id] of each row --- */

void chosen_logprobs(const float *logits, const int64_t *ids, float *chosen, float *normaliser,
                     float *entropy, long rows, long vocabulary, float inverse_temperature) {
#pragma omp parallel for
    for (long row = 0; row < rows; row++) {
        const float *x = logits + row * vocabulary;
        float largest = largest_of(x, vocabulary), sum = 0, weighted = 0;
        for (long i = 0; i < vocabulary; i++) {
            float distance = (x[i] - largest) * inverse_temperature;
            float e = exponential(distance);
            sum += e;
            weighted += e * distance;
        }
        float log_sum = logf(sum);
        chosen[row] = (x[ids[row]] - largest) * inverse_temperature - log_sum;
        normaliser[row] = largest * inverse_temperature + log_sum;
        entropy[row] = log_sum - weighted / sum;
    }
}

/* Turns logits into the gradient of what `chosen_logprobs` gave. */
void chosen_logprobs_backward(const float *grad, const int64_t *ids, const float *normaliser,
                              float *logits, long rows, long vocabulary,
                              float inverse_temperature) {
#pragma omp parallel for
    for (long row = 0; row < rows; row++) {
        float *x = logits + row * vocabulary;
        float g = grad[row] * inverse_temperature, shift = normaliser[row];
        for (long i = 0; i < vocabulary; i++)
            x[i] = -g * exponential(x[i] * inverse_temperature - shift);
        x[ids[row]] += g;
    }
}

/* --- the next token of each row: the first whose cumulative probability under
 * softmax(logits · inverse_temperature) exceeds the row's number in [0, 1); and its log-probability. A
 * scratch has room for a row. What has no weight is never chosen; of logits that are no numbers comes
 * a log-probability that is none --- */

enum { CHUNK = 64 };

static inline float sum_of(const float *x, long length) {
    float sum = 0;
    for (long i = 0; i < length; i++) sum += x[i];
    return sum;
}

/* Sums of chunks lead to the chunk; what they miss by rounding, the chunks behind make up for. */
static inline long inverse_of_cumulative(const float *weights, long length, double rest) {
    long i = 0;
    for (; i + CHUNK <= length; i += CHUNK) {
        float sum = sum_of(weights + i, CHUNK);
        if (!(rest >= sum)) break;
        rest -= sum;
    }
    while (i < length && rest >= weights[i]) rest -= weights[i++];
    if (i == length) i--;
    while (i > 0 && weights[i] == 0) i--;
    return i;
}

void draw(const float *logits, const float *uniforms, float *scratch, int64_t *tokens,
          float *logprobs, long threads, long rows, long vocabulary, float inverse_temperature) {
#pragma omp parallel num_threads(threads)
    {
        float *weights = scratch + omp_get_thread_num() * vocabulary;
#pragma omp for
        for (long row = 0; row < rows; row++) {
            const float *x = logits + row * vocabulary;
            float largest = largest_of(x, vocabulary);
            for (long i = 0; i < vocabulary; i++) {
                float distance = (x[i] - largest) * inverse_temperature;
                float weight = exponential(distance);
                weights[i] = distance < -87.0f ? 0.0f : weight;
            }
            double sum = 0;
            for (long i = 0; i < vocabulary; i += CHUNK)
                sum += sum_of(weights + i, vocabulary - i < CHUNK ? vocabulary - i : CHUNK);
            long token = inverse_of_cumulative(weights, vocabulary, uniforms[row] * sum);
            tokens[row] = token;
            logprobs[row] = (x[token] - largest) * inverse_temperature - logf(sum);
        }
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

/* Turns scores into probabilities, and their gradient into that of the scores, both 0 from `length` up
 * to `end`: of score i it is scale · p_i · (g_i − Σ p_j g_j). */
static inline void softmax_backward(float *scores, float *grad, long length, long end, float scale,
                                    float normaliser) {
    float dot = 0;
    long whole = rounded_up(length), cleared = (end > whole ? end : whole) - length;
    for (long t = 0; t < whole; t++) scores[t] = exponential(scores[t] * scale - normaliser);
    memset(scores + length, 0, cleared * sizeof(float));
    memset(grad + length, 0, cleared * sizeof(float));
    for (long t = 0; t < whole; t++) dot += scores[t] * grad[t];
    for (long t = 0; t < whole; t++) grad[t] = scores[t] * (grad[t] - dot) * scale;
}

/* --- causal attention within documents of one length; queries are [documents, length, heads, width],
 * keys and values the same with kv_heads. A thread takes the query heads of one key-value head, TILE
 * queries at a time; `room` is at least the length rounded up, and a scratch holds what one document needs.
 * width is a multiple of STEP --- */

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

/* [length, width], rows `stride` apart → [width, room], with zeros behind the length. */
static void transpose(const float *x, long stride, float *out, long length, long width, long room) {
    for (long i = 0; i < width; i++) {
        for (long t = 0; t < length; t++) out[i * room + t] = x[t * stride + i];
        for (long t = length; t < room; t++) out[i * room + t] = 0;
    }
}

void attend(const float *queries, const float *keys, const float *values, float *scratch,
            float *out, float *normaliser, long threads, long documents, long length, long heads,
            long kv_heads, long width, long room) {
    long sharing = heads / kv_heads, row = heads * width, kv_row = kv_heads * width;
    float scale = 1 / sqrtf(width);
#pragma omp parallel num_threads(threads)
    {
        float *across = scratch + omp_get_thread_num() * (width + TILE) * room;
        float *scores = across + width * room;
#pragma omp for collapse(2) schedule(guided)
        for (long document = 0; document < documents; document++)
            for (long kv = 0; kv < kv_heads; kv++) {
                long kv_begin = document * length * kv_row + kv * width;
                transpose(keys + kv_begin, kv_row, across, length, width, room);
                for (long head = kv * sharing; head < (kv + 1) * sharing; head++)
                    for (long first = 0; first < length; first += TILE) {
                        long end = first + TILE < length ? first + TILE : length;
                        long begin = (document * length + first) * row + head * width;
                        multiply(queries + begin, row, 1, across, room, scores, room, end - first,
                                 rounded_up(end), width, 0);
                        float *logs = normaliser + (document * heads + head) * length;
                        for (long t = first; t < end; t++) {
                            float *own = scores + (t - first) * room;
                            logs[t] = softmax(own, t + 1, end, scale);
                        }
                        multiply(scores, room, 1, values + kv_begin, kv_row, out + begin, row,
                                 end - first, width, end, 0);
                    }
            }
    }
}

/* The gradients of keys and values begin as zeros. */
void attend_backward(const float *grad, const float *queries, const float *keys,
                     const float *values, const float *normaliser, float *scratch,
                     float *of_queries, float *of_keys, float *of_values, long threads,
                     long documents, long length, long heads, long kv_heads, long width,
                     long room) {
    long sharing = heads / kv_heads, row = heads * width, kv_row = kv_heads * width;
    float scale = 1 / sqrtf(width);
#pragma omp parallel num_threads(threads)
    {
        float *keys_across = scratch + omp_get_thread_num() * 2 * (width + TILE) * room;
        float *values_across = keys_across + width * room;
        float *probs = values_across + width * room, *of_scores = probs + TILE * room;
#pragma omp for collapse(2) schedule(guided)
        for (long document = 0; document < documents; document++)
            for (long kv = 0; kv < kv_heads; kv++) {
                long kv_begin = document * length * kv_row + kv * width;
                transpose(keys + kv_begin, kv_row, keys_across, length, width, room);
                transpose(values + kv_begin, kv_row, values_across, length, width, room);
                for (long head = kv * sharing; head < (kv + 1) * sharing; head++)
                    for (long first = 0; first < length; first += TILE) {
                        long end = first + TILE < length ? first + TILE : length, m = end - first;
                        long begin = (document * length + first) * row + head * width;
                        multiply(queries + begin, row, 1, keys_across, room, probs, room, m,
                                 rounded_up(end), width, 0);
                        multiply(grad + begin, row, 1, values_across, room, of_scores, room, m,
                                 rounded_up(end), width, 0);
                        const float *logs = normaliser + (document * heads + head) * length;
                        for (long t = first; t < end; t++)
                            softmax_backward(probs + (t - first) * room,
                                             of_scores + (t - first) * room, t + 1, end, scale,
                                             logs[t]);
                        multiply(of_scores, room, 1, keys + kv_begin, kv_row, of_queries + begin,
                                 row, m, width, end, 0);
                        multiply(of_scores, 1, room, queries + begin, row, of_keys + kv_begin,
                                 kv_row, end, width, m, 1);
                        multiply(probs, 1, room, grad + begin, row, of_values + kv_begin, kv_row,
                                 end, width, m, 1);
                    }
            }
    }
}

/* --- xᵀ · y of x [rows, a] and y [rows, b], as the gradient of a weight is one; a and b are multiples
 * of STEP. A thread takes SIDE by SIDE of the result, DEPTH rows at a time, copied so that what is read
 * together lies together: lines at distances of a power of two drive each other out of a cache --- */

enum { SIDE = 64, DEPTH = 128, STRIP = LANES / 2 };

/* Strips of columns, each [depth, strip], one behind the other. */
static inline void pack(const float *x, long row, float *out, long depth, long columns,
                        long strip) {
    for (long i = 0; i < columns; i += strip)
        for (long s = 0; s < depth; s++)
            memcpy(out + i * depth + s * strip, x + s * row + i, strip * sizeof(float));
}

/* Adds the product of a strip [depth, STRIP] and one [depth, STEP] to STRIP rows of the result. */
static inline void add_product(const float *x, const float *y, float *out, long row, long depth) {
    lanes low[STRIP] = {0}, high[STRIP] = {0};
    for (long s = 0; s < depth; s++) {
        lanes first = load(y + s * STEP), second = load(y + s * STEP + LANES);
        for (long r = 0; r < STRIP; r++) {
            low[r] += x[s * STRIP + r] * first;
            high[r] += x[s * STRIP + r] * second;
        }
    }
    for (long r = 0; r < STRIP; r++) {
        float *place = out + r * row;
        store(place, load(place) + low[r]);
        store(place + LANES, load(place + LANES) + high[r]);
    }
}

/* The result begins as zeros. */
void product_over_rows(const float *x, const float *y, float *out, long rows, long a, long b) {
#pragma omp parallel
    {
        float xs[SIDE * DEPTH] __attribute__((aligned(64)));
        float ys[SIDE * DEPTH] __attribute__((aligned(64)));
#pragma omp for collapse(2) schedule(dynamic)
        for (long i = 0; i < a; i += SIDE)
            for (long j = 0; j < b; j += SIDE)
                for (long begin = 0; begin < rows; begin += DEPTH) {
                    long high = a - i < SIDE ? a - i : SIDE, wide = b - j < SIDE ? b - j : SIDE;
                    long depth = rows - begin < DEPTH ? rows - begin : DEPTH;
                    pack(x + begin * a + i, a, xs, depth, high, STRIP);
                    pack(y + begin * b + j, b, ys, depth, wide, STEP);
                    for (long n = 0; n < wide; n += STEP)
                        for (long m = 0; m < high; m += STRIP)
                            add_product(xs + m * depth, ys + n * depth,
                                        out + (i + m) * b + j + n, b, depth);
                }
    }
}

/* --- one step of attention with a cache: rotates a new token's queries and keys, stores its keys
 * and values, and attends. Memory sets the pace, so that each part fetches what the next one reads:
 * `next` is of the same size as what is being read --- */

/* Scores of BLOCK positions, whose keys are [width, BLOCK]. */
static inline void score(const float *query, const float *keys, const float *next, float *scores,
                         long width) {
    eight a = {0}, b = {0}, c = {0}, d = {0};
    for (long i = 0; i < width; i++) {
        const float *row = keys + i * BLOCK;
        __builtin_prefetch(next + i * BLOCK);
        __builtin_prefetch(next + i * BLOCK + BLOCK / 2);
        a += query[i] * load8(row);
        b += query[i] * load8(row + 8);
        c += query[i] * load8(row + 16);
        d += query[i] * load8(row + 24);
    }
    store8(scores, a);
    store8(scores + 8, b);
    store8(scores + 16, c);
    store8(scores + 24, d);
}

/* Sum of values [length, width] by their probabilities; width is a multiple of 8. */
static inline void mix(const float *probs, const float *values, const float *next, float *out,
                       long length, long width) {
    long i = 0;
    for (; i + BLOCK <= width; i += BLOCK) {
        eight a = {0}, b = {0}, c = {0}, d = {0};
        for (long t = 0; t < length; t++) {
            const float *row = values + t * width + i;
            __builtin_prefetch(next + t * width + i);
            __builtin_prefetch(next + t * width + i + 16);
            a += probs[t] * load8(row);
            b += probs[t] * load8(row + 8);
            c += probs[t] * load8(row + 16);
            d += probs[t] * load8(row + 24);
        }
        store8(out + i, a);
        store8(out + i + 8, b);
        store8(out + i + 16, c);
        store8(out + i + 24, d);
    }
    for (; i < width; i += 8) { /* four sums, because an addition waits for the one before */
        eight a = {0}, b = {0}, c = {0}, d = {0};
        const float *column = values + i;
        long t = 0;
        for (; t + 4 <= length; t += 4) {
            a += probs[t] * load8(column + t * width);
            b += probs[t + 1] * load8(column + (t + 1) * width);
            c += probs[t + 2] * load8(column + (t + 2) * width);
            d += probs[t + 3] * load8(column + (t + 3) * width);
        }
        for (; t < length; t++) a += probs[t] * load8(column + t * width);
        store8(out + i, (a + b) + (c + d));
    }
}

/* Of the tokens so far and what they were read into: [kv_heads, blocks, width, BLOCK] keys and
 * [kv_heads, blocks · BLOCK, width] values of a slot. */
typedef struct {
    long heads, kv_heads, width, blocks;
} sizes_of_attention;

/* The query heads of one key-value head; `row` has queries, keys and values of the new token, and
 * `scratch` room for a query and its scores. */
static inline void attend_head(const float *row, const float *cos, const float *sin, long position,
                               float *keys, float *values, float *scratch, float *attended, long kv,
                               sizes_of_attention of) {
    long sharing = of.heads / of.kv_heads, width = of.width, room = of.blocks * BLOCK;
    long length = position + 1;
    float *query = scratch, *scores = scratch + width;
    float *own_keys = keys + kv * room * width, *own_values = values + kv * room * width;
    float *column = own_keys + position / BLOCK * BLOCK * width + position % BLOCK;
    rotate_row(row + (of.heads + kv) * width, cos, sin, 1, column, BLOCK, width);
    memcpy(own_values + position * width, row + (of.heads + of.kv_heads + kv) * width,
           width * sizeof(float));
    for (long head = kv * sharing; head < (kv + 1) * sharing; head++) {
        rotate_row(row + head * width, cos, sin, 1, query, 1, width);
        for (long begin = 0; begin < length; begin += BLOCK)
            score(query, own_keys + begin * width, own_values + begin * width, scores + begin,
                  width);
        softmax(scores, length, length, 1 / sqrtf(width));
        mix(scores, own_values, own_keys + room * width, attended + head * width, length, width);
    }
}

void attend_step(const float *qkv, const float *cos, const float *sin, const int64_t *positions,
                 float *keys, float *values, float *scratch, float *attended, long threads,
                 long slots, long heads, long kv_heads, long width, long blocks) {
    sizes_of_attention of = {heads, kv_heads, width, blocks};
    long room = blocks * BLOCK, stored = kv_heads * room * width;
#pragma omp parallel num_threads(threads)
    {
        float *own = scratch + omp_get_thread_num() * (width + room);
#pragma omp for collapse(2) schedule(guided)
        for (long slot = 0; slot < slots; slot++)
            for (long kv = 0; kv < kv_heads; kv++) {
                long position = positions[slot];
                attend_head(qkv + slot * (heads + 2 * kv_heads) * width, cos + position * width,
                            sin + position * width, position, keys + slot * stored,
                            values + slot * stored, own, attended + slot * heads * width, kv, of);
            }
    }
}

/* --- a step of all layers. Slots share nothing but the weights, so that a thread takes its slots
 * from the first layer to the last and waits for nobody. For models so small that the weights stay in
 * the caches. Matrices are strips of WIDTH columns, [in, WIDTH] each, the last one filled up with
 * zeros --- */

typedef struct {
    const float *attention_norm, *qkv, *out, *mlp_norm, *gate_up, *down;
    float *keys, *values; /* of all slots */
} layer;

/* out[rows, columns] = x[rows, in] · matrix, or out + that */
static void product(const float *x, long in, const float *matrix, float *out, long columns,
                    long rows, long depth, int add) {
    for (long j = 0; j < columns; j += WIDTH)
        multiply(x, in, 1, matrix + j * depth, WIDTH, out + j, columns, rows, WIDTH, depth, add);
}

/* x[slots, dim] goes in as embedded tokens and comes out of the last layer. ffn is a multiple of WIDTH
 * with zeros behind ffn_dim; a scratch has room for what `rows` slots need, and for attention. */
void decode_step(float *x, const layer *layers, const float *cos, const float *sin,
                 const int64_t *positions, float *scratch, long threads, long rows, long slots,
                 long num_layers, long heads, long kv_heads, long width, long blocks, long ffn,
                 float eps) {
    sizes_of_attention of = {heads, kv_heads, width, blocks};
    long dim = heads * width, wide = (heads + 2 * kv_heads) * width, room = blocks * BLOCK;
    long widest = wide > 2 * ffn ? wide : 2 * ffn, stored = kv_heads * room * width;
#pragma omp parallel num_threads(threads)
    {
        float *normed = scratch + omp_get_thread_num() * (rows * (dim + widest) + width + room);
        float *made = normed + rows * dim, *own = made + rows * widest;
#pragma omp for schedule(static)
        for (long first = 0; first < slots; first += rows) {
            long count = slots - first < rows ? slots - first : rows;
            float *stream = x + first * dim;
            for (const layer *l = layers; l < layers + num_layers; l++) {
                for (long r = 0; r < count; r++)
                    normalise(stream + r * dim, l->attention_norm, normed + r * dim, dim, eps);
                product(normed, dim, l->qkv, made, wide, count, dim, 0);
                for (long r = 0; r < count; r++)
                    for (long kv = 0; kv < kv_heads; kv++) {
                        long slot = first + r, position = positions[slot];
                        attend_head(made + r * wide, cos + position * width,
                                    sin + position * width, position, l->keys + slot * stored,
                                    l->values + slot * stored, own, normed + r * dim, kv, of);
                    }
                product(normed, dim, l->out, stream, dim, count, dim, 1);
                for (long r = 0; r < count; r++)
                    normalise(stream + r * dim, l->mlp_norm, normed + r * dim, dim, eps);
                product(normed, dim, l->gate_up, made, 2 * ffn, count, dim, 0);
                for (long r = 0; r < count; r++) {
                    float *gate = made + r * 2 * ffn;
                    gated(gate, gate + ffn, gate, ffn);
                }
                product(made, 2 * ffn, l->down, stream, dim, count, ffn, 1);
            }
        }
    }
}
