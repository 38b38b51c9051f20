/* Steps of the transformer that torch composes of several operations, each of which reads and writes
 * all numbers again; here they are one pass each. float32, contiguous, last dimension first to vary.
 *
 * kernels.py sets TILE, BLOCK and WIDTH; compiler.py compiles this file and decoding.c and links them to
 * no OpenMP: the one that torch has loaded is used, and so its threads. A scratch has one part for each
 * of `threads`. */

#include "kernels.h"

/* --- normalisation: out = weight · x · inverse with inverse = 1 / √(mean x² + ε) --- */

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

/* --- causal attention within documents; queries are [tokens, heads, width], keys and values the same
 * with kv_heads, spans [documents, 2] the first token and the length of each, normalisers [heads, tokens].
 * A thread takes the query heads of one key-value head, TILE queries at a time. It asks for the next
 * (`dynamic`): long documents come first, and `guided` would give them all to one. `room` is at least the
 * longest length rounded up, and a scratch holds what one document needs. width is a multiple of STEP --- */

/* [length, width], rows `stride` apart → [width, room], with zeros up to whole vectors. So few rows at a
 * time that the first cache holds them. */
static void transpose(const float *x, long stride, float *out, long length, long width, long room) {
    for (long begin = 0; begin < rounded_up(length); begin += LANES) {
        long end = begin + LANES, last = end < length ? end : length;
        for (long i = 0; i < width; i++) {
            for (long t = begin; t < last; t++) out[i * room + t] = x[t * stride + i];
            for (long t = last > begin ? last : begin; t < end; t++) out[i * room + t] = 0;
        }
    }
}

void attend(const float *queries, const float *keys, const float *values, const int64_t *spans,
            float *scratch, float *out, float *normaliser, long threads, long documents, long tokens,
            long heads, long kv_heads, long width, long room) {
    long sharing = heads / kv_heads, row = heads * width, kv_row = kv_heads * width;
    float scale = 1 / sqrtf(width);
#pragma omp parallel num_threads(threads)
    {
        float *across = scratch + omp_get_thread_num() * (width + TILE) * room;
        float *scores = across + width * room;
#pragma omp for collapse(2) schedule(dynamic)
        for (long document = 0; document < documents; document++)
            for (long kv = 0; kv < kv_heads; kv++) {
                long start = spans[2 * document], length = spans[2 * document + 1];
                long kv_begin = start * kv_row + kv * width;
                transpose(keys + kv_begin, kv_row, across, length, width, room);
                for (long head = kv * sharing; head < (kv + 1) * sharing; head++)
                    for (long first = 0; first < length; first += TILE) {
                        long end = first + TILE < length ? first + TILE : length;
                        long begin = (start + first) * row + head * width;
                        multiply(queries + begin, row, 1, across, room, scores, room, end - first,
                                 rounded_up(end), width, 0);
                        float *logs = normaliser + head * tokens + start;
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

/* Rows of zeros, `stride` apart, for what is added to. */
static void clear(float *x, long stride, long length, long width) {
    for (long t = 0; t < length; t++) memset(x + t * stride, 0, width * sizeof(float));
}

void attend_backward(const float *grad, const float *queries, const float *keys,
                     const float *values, const int64_t *spans, const float *normaliser,
                     float *scratch, float *of_queries, float *of_keys, float *of_values,
                     long threads, long documents, long tokens, long heads, long kv_heads,
                     long width, long room) {
    long sharing = heads / kv_heads, row = heads * width, kv_row = kv_heads * width;
    float scale = 1 / sqrtf(width);
#pragma omp parallel num_threads(threads)
    {
        float *keys_across = scratch + omp_get_thread_num() * 2 * (width + TILE) * room;
        float *values_across = keys_across + width * room;
        float *probs = values_across + width * room, *of_scores = probs + TILE * room;
#pragma omp for collapse(2) schedule(dynamic)
        for (long document = 0; document < documents; document++)
            for (long kv = 0; kv < kv_heads; kv++) {
                long start = spans[2 * document], length = spans[2 * document + 1];
                long kv_begin = start * kv_row + kv * width;
                transpose(keys + kv_begin, kv_row, keys_across, length, width, room);
                transpose(values + kv_begin, kv_row, values_across, length, width, room);
                clear(of_keys + kv_begin, kv_row, length, width);
                clear(of_values + kv_begin, kv_row, length, width);
                for (long head = kv * sharing; head < (kv + 1) * sharing; head++)
                    for (long first = 0; first < length; first += TILE) {
                        long end = first + TILE < length ? first + TILE : length, m = end - first;
                        long begin = (start + first) * row + head * width;
                        multiply(queries + begin, row, 1, keys_across, room, probs, room, m,
                                 rounded_up(end), width, 0);
                        multiply(grad + begin, row, 1, values_across, room, of_scores, room, m,
                                 rounded_up(end), width, 0);
                        const float *logs = normaliser + head * tokens + start;
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
