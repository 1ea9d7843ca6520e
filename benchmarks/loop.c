// A Llama-shaped model as a plain C program would have it, for benchmarks/small.py: float32, one token at a time, one
// thread, loops that the compiler vectorises.
//   loop FILE TOKENS TURNS     greedy from token 1; prints the tokens, then the microseconds a token of the best turn
// FILE: ten int32 (width, layers, heads, kv heads, head_dim, mlp width, vocabulary, positions, 0, 0), two floats (rope
// theta, norm eps), then float32 matrices [out][in]: embedding, of each layer norm, q, k, v, o, norm, gate, up, down;
// norm. The head is the embedding.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void norm(float* y, const float* x, const float* w, int n, float eps) {
    float s = 0;
    for (int i = 0; i < n; i++) s += x[i] * x[i];
    s = 1 / sqrtf(s / (float)n + eps);
    for (int i = 0; i < n; i++) y[i] = w[i] * (s * x[i]);
}
static void product(float* y, const float* x, const float* w, int n, int k) {
    for (int i = 0; i < n; i++) {
        float s = 0;
        for (int j = 0; j < k; j++) s += w[(size_t)i * (size_t)k + (size_t)j] * x[j];
        y[i] = s;
    }
}
static float* zeros(size_t n) {
    float* p = calloc(n, sizeof(float));
    if (p == NULL) exit(3);
    return p;
}

int main(int argc, char** argv) {
    if (argc != 4) return 2;
    FILE* f = fopen(argv[1], "rb");
    int h[10];
    float c[2];
    if (f == NULL || fread(h, 4, 10, f) != 10 || fread(c, 4, 2, f) != 2) return 2;
    const int dim = h[0], layers = h[1], heads = h[2], kv = h[3], hd = h[4], mlp = h[5], vocab = h[6], most = h[7];
    const int q_dim = heads * hd, kv_dim = kv * hd, tokens = atoi(argv[2]), turns = atoi(argv[3]);
    if (tokens < 1 || tokens >= most) return 2;
    const size_t D = (size_t)dim, of_layer = 2 * D + D * (size_t)(2 * q_dim + 2 * kv_dim + 3 * mlp);
    const size_t n = (size_t)vocab * D + (size_t)layers * of_layer + D;
    float* w = zeros(n);
    if (fread(w, 4, n, f) != n) return 2;
    float *x = zeros(D), *a = zeros(D), *q = zeros((size_t)q_dim), *o = zeros((size_t)q_dim), *g = zeros((size_t)mlp);
    float *u = zeros((size_t)mlp), *logits = zeros((size_t)vocab), *score = zeros((size_t)most);
    float *keys = zeros((size_t)layers * (size_t)most * (size_t)kv_dim), *values = zeros((size_t)layers * (size_t)most * (size_t)kv_dim);
    double best = 1e9;
    for (int turn = 0; turn < turns; turn++) {
        struct timespec t0, t1;
        clock_gettime(CLOCK_MONOTONIC, &t0);
        int token = 1;
        for (int pos = 0; pos < tokens; pos++) {
            memcpy(x, w + (size_t)token * D, D * 4);
            const float* p = w + (size_t)vocab * D;
            for (int l = 0; l < layers; l++) {
                float* k = keys + ((size_t)l * (size_t)most + (size_t)pos) * (size_t)kv_dim;
                float* v = values + ((size_t)l * (size_t)most + (size_t)pos) * (size_t)kv_dim;
                norm(a, x, p, dim, c[1]), p += dim;
                product(q, a, p, q_dim, dim), p += q_dim * dim;
                product(k, a, p, kv_dim, dim), p += kv_dim * dim;
                product(v, a, p, kv_dim, dim), p += kv_dim * dim;
                for (int i = 0; i < hd / 2; i++) {
                    const float angle = (float)pos * powf(c[0], -2.0f * (float)i / (float)hd);
                    const float co = cosf(angle), si = sinf(angle);
                    for (int j = 0; j < heads + kv; j++) {
                        float* y = j < heads ? q + j * hd : k + (j - heads) * hd;
                        const float first = y[i], second = y[i + hd / 2];
                        y[i] = first * co - second * si;
                        y[i + hd / 2] = second * co + first * si;
                    }
                }
                for (int j = 0; j < heads; j++) {
                    const float *qj = q + j * hd, *kl = keys + (size_t)l * (size_t)most * (size_t)kv_dim;
                    const float* vl = values + (size_t)l * (size_t)most * (size_t)kv_dim;
                    const int at = j / (heads / kv) * hd;
                    float top = -INFINITY, sum = 0, *oj = o + j * hd;
                    for (int t = 0; t <= pos; t++) {
                        float s = 0;
                        for (int i = 0; i < hd; i++) s += qj[i] * kl[t * kv_dim + at + i];
                        score[t] = s / sqrtf((float)hd);
                        top = score[t] > top ? score[t] : top;
                    }
                    for (int t = 0; t <= pos; t++) sum += score[t] = expf(score[t] - top);
                    memset(oj, 0, (size_t)hd * 4);
                    for (int t = 0; t <= pos; t++)
                        for (int i = 0; i < hd; i++) oj[i] += score[t] / sum * vl[t * kv_dim + at + i];
                }
                product(a, o, p, dim, q_dim), p += dim * q_dim;
                for (int i = 0; i < dim; i++) x[i] += a[i];
                norm(a, x, p, dim, c[1]), p += dim;
                product(g, a, p, mlp, dim), p += mlp * dim;
                product(u, a, p, mlp, dim), p += mlp * dim;
                for (int i = 0; i < mlp; i++) g[i] = g[i] / (1 + expf(-g[i])) * u[i];
                product(a, g, p, dim, mlp), p += dim * mlp;
                for (int i = 0; i < dim; i++) x[i] += a[i];
            }
            norm(a, x, p, dim, c[1]);
            product(logits, a, w, vocab, dim);
            token = 0;
            for (int i = 1; i < vocab; i++)
                if (logits[i] > logits[token]) token = i;
            if (turn == 0) printf("%d ", token);
        }
        clock_gettime(CLOCK_MONOTONIC, &t1);
        const double s = (double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec);
        best = s < best ? s : best;
    }
    printf("\n%.3f\n", best * 1e6 / tokens);
    return 0;
}
