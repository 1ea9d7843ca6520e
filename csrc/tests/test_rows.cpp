// Ops over rows and heads, and the accuracy of the vector functions, against double precision.
#include <algorithm>

#include "support.h"

using namespace penstock;
using namespace penstock::test;

namespace {

Worker alone() {
    Worker w{};
    w.count = 1;
    return w;
}

// Runs `op` with 1 and with 3 workers (one after the other: these ops meet no barrier) and wants equal bits in y.
template <class Op>
void both(Buffer<float>& y, Op op) {
    std::fill(y.data(), y.data() + y.size(), 55.0f);
    op(alone());
    const std::vector<float> one(y.data(), y.data() + y.size());
    std::fill(y.data(), y.data() + y.size(), 55.0f);
    for (int id = 2; id >= 0; id--) {
        Worker w{};
        w.id = id;
        w.count = 3;
        op(w);
    }
    CHECK(same_bits(one.data(), y.data(), y.size()), "the workers show in the result");
}

std::vector<float> apply(const Kernels& kernels, ElementwiseArgs::Kind kind, Activation act, float factor,
                         const std::vector<float>& x) {
    std::vector<float> y(x.size());
    ElementwiseArgs a{};
    a.kind = kind;
    a.activation = act;
    a.factor = factor;
    a.rows = 1;
    a.width = static_cast<int64_t>(x.size());
    a.a = {x.data(), a.width};
    a.y = y.data();
    a.ldy = a.width;
    elementwise(kernels, a, alone());
    return y;
}

double relative(double got, double want) { return std::fabs(got - want) / std::max(std::fabs(want), 1e-30); }

void functions(const Kernels& kernels) {
    using Kind = ElementwiseArgs::Kind;
    std::vector<float> x;
    for (int i = -40000; i <= 40000; i++) x.push_back(static_cast<float>(i) * 0.00025f);
    const auto silu = apply(kernels, Kind::activation, Activation::silu, 0, x);
    const auto gelu = apply(kernels, Kind::activation, Activation::gelu, 0, x);
    const auto gelu_tanh = apply(kernels, Kind::activation, Activation::gelu_tanh, 0, x);
    const auto capped = apply(kernels, Kind::softcap, Activation::none, 1, x);
    for (size_t i = 0; i < x.size(); i++) {
        const double v = x[i];
        CHECK(relative(silu[i], v / (1 + std::exp(-v))) < 5e-7, "silu(%g) = %g", v, double(silu[i]));
        const double want = 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
        CHECK(std::fabs(gelu[i] - want) < 1.5e-7 * (1 + std::fabs(v)), "gelu(%g) = %g, want %g", v, double(gelu[i]),
              want);
        const double inner = std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v);
        CHECK(std::fabs(gelu_tanh[i] - 0.5 * v * (1 + std::tanh(inner))) < 3e-7 * (1 + std::fabs(v)), "gelu_tanh(%g)",
              v);
        CHECK(relative(capped[i], std::tanh(v)) < 4 * 6e-8, "tanh(%g) = %.9g, want %.9g", v, double(capped[i]),
              std::tanh(v));
    }
    const float infinity = std::numeric_limits<float>::infinity();
    const auto edge =
        apply(kernels, Kind::activation, Activation::silu, 0, {-infinity, -200, 200, infinity, std::nanf(""), 0});
    CHECK((edge[1] == 0 || std::fabs(edge[1]) < 1e-35f) && edge[2] == 200 && edge[3] == infinity &&
          edge[4] != edge[4] && edge[5] == 0);
    // An element's value does not depend on its place.
    for (size_t start : {size_t{1}, size_t{3}, size_t{15}}) {
        for (size_t length : {size_t{1}, size_t{13}, size_t{100}}) {
            const std::vector<float> piece(x.begin() + 20000 + static_cast<long>(start),
                                           x.begin() + 20000 + static_cast<long>(start + length));
            const auto y = apply(kernels, Kind::activation, Activation::gelu, 0, piece);
            CHECK(same_bits(y.data(), gelu.data() + 20000 + start, static_cast<int64_t>(length)),
                  "gelu depends on the lane");
        }
    }
}

void elementwise_kinds(const Kernels& kernels) {
    using Kind = ElementwiseArgs::Kind;
    const int64_t rows = 3, width = 1037;
    const auto a = random_floats(rows * (width + 1), 1, -3, 3), b = random_floats(rows * (width + 2), 2);
    for (Kind kind : {Kind::add, Kind::scale, Kind::gated, Kind::activation, Kind::gate, Kind::softcap}) {
        Buffer<float> y(rows * (width + 3));
        ElementwiseArgs e{kind,     Activation::silu, 2.5f, rows, width, {a.data(), width + 1}, {b.data(), width + 2},
                          y.data(), width + 3};
        both(y, [&](const Worker& w) { elementwise(kernels, e, w); });
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t i = 0; i < width; i++) {
                const double x = a[r * (width + 1) + i], z = b[r * (width + 2) + i], silu = x / (1 + std::exp(-x));
                const double sigmoid = 1 / (1 + std::exp(-static_cast<double>(b[r * (width + 2)])));
                const double want = kind == Kind::add       ? x + z
                                    : kind == Kind::scale   ? x * 2.5
                                    : kind == Kind::gated   ? silu * z
                                    : kind == Kind::gate    ? x * sigmoid
                                    : kind == Kind::softcap ? 2.5 * std::tanh(x / 2.5)
                                                            : silu;
                CHECK(std::fabs(y[r * (width + 3) + i] - want) < 1e-6, "kind %d row %ld column %ld", int(kind), long(r),
                      long(i));
            }
        }
    }
}

void norms(const Kernels& kernels) {
    for (int64_t width : {1, 15, 16, 64, 77, 256, 1030}) {
        for (NormKind kind : {NormKind::rms, NormKind::layer}) {
            for (bool plus_one : {false, true}) {
                const int64_t rows = 3, groups = width == 64 ? 3 : 1, all = width * groups;
                const auto x = random_floats(rows * all, 5, 1, 4), weight = random_floats(width, 6),
                           bias = random_floats(width, 7);
                Buffer<float> y(rows * all);
                NormArgs a{};
                a.norm = {kind, plus_one, 1e-3f, weight.data(), kind == NormKind::layer ? bias.data() : nullptr};
                a.rows = rows;
                a.width = all;
                a.group = groups > 1 ? width : 0;
                a.x = {x.data(), all};
                a.y = y.data();
                a.ldy = all;
                both(y, [&](const Worker& w) { norm(kernels, a, w); });
                for (int64_t g = 0; g < rows * groups; g++) {
                    double mean = 0, square = 0;
                    for (int64_t i = 0; i < width; i++) mean += x[g * width + i] / static_cast<double>(width);
                    if (kind == NormKind::rms) mean = 0;
                    for (int64_t i = 0; i < width; i++) square += (x[g * width + i] - mean) * (x[g * width + i] - mean);
                    const double inverse = 1 / std::sqrt(square / static_cast<double>(width) + 1e-3f);
                    for (int64_t i = 0; i < width; i++) {
                        double want = (x[g * width + i] - mean) * inverse * (weight[i] + (plus_one ? 1.0 : 0.0));
                        if (kind == NormKind::layer) want += bias[i];
                        CHECK(std::fabs(y[g * width + i] - want) < 3e-6 * (1 + std::fabs(want)),
                              "%s norm of %ld: %g, want %g", kernels.name, long(width), double(y[g * width + i]), want);
                    }
                }
            }
        }
    }
}

void embeddings(const Kernels& kernels) {
    for (Format format : {Format::f32, Format::f16, Format::bf16}) {
        for (int64_t k : {1, 33, 600}) {
            const Weights w = random_weights(format, 50, k, 3);
            const int32_t ids[] = {49, 0, 17, 17};
            Buffer<float> y(4 * (k + 1), 9.0f);
            EmbedArgs a{ids, 4, w.matrix, 2.0f, y.data(), k + 1};
            both(y, [&](const Worker& worker) { embed(kernels, a, worker); });
            for (int64_t r = 0; r < 4; r++)
                for (int64_t i = 0; i < k; i++)
                    CHECK(y[r * (k + 1) + i] == 2 * w.values[ids[r] * k + i], "%s row %ld column %ld",
                          format_name(format), long(r), long(i));
        }
        // Padding of a packed matrix is zeros, and no byte of it is left unwritten.
        const Weights odd = random_weights(format, 19, 5, 4);
        Buffer<float> y(6);
        Matrix whole = odd.matrix;
        whole.k = 6;
        for (int64_t row = 0; row < 32; row++) {
            kernels.gather(whole, row, 0, 6, 1, y.data());
            for (int64_t i = 0; i < 6; i++)
                if (row >= 19 || i == 5)
                    CHECK(y[i] == 0, "padding at row %ld column %ld is %g", long(row), long(i), double(y[i]));
        }
    }
    const auto x = random_floats(5 * 700, 1);
    const int32_t index[] = {4, 1};
    Buffer<float> y(2 * 700);
    SelectArgs a{index, 2, 700, {x.data(), 700}, y.data(), 700};
    both(y, [&](const Worker& w) { select(kernels, a, w); });
    CHECK(same_bits(y.data(), x.data() + 4 * 700, 700) && same_bits(y.data() + 700, x.data() + 700, 700));
}

void angle_rules(const Kernels& kernels) {
    const int64_t dim = 10, half = 5;
    const int32_t positions[] = {0, 1, 100, 999999}, lengths[] = {10, 4096, 4097, 30000};
    float inverse[half], longer[half];
    for (int64_t i = 0; i < half; i++)
        inverse[i] = static_cast<float>(std::pow(10000.0, -2.0 * double(i) / double(dim))), longer[i] = inverse[i] / 3;
    for (LengthRule rule : {LengthRule::none, LengthRule::dynamic, LengthRule::longrope, LengthRule::qwen_ntk}) {
        Buffer<float> y(4 * dim);
        AnglesArgs a{positions, lengths, 4,        dim,  inverse, longer,   1.5f,
                     2.5f,      rule,    10000.0f, 4.0f, 4096,    y.data(), dim};
        both(y, [&](const Worker& w) { angles(kernels, a, w); });
        for (int r = 0; r < 4; r++) {
            for (int64_t i = 0; i < half; i++) {
                const double n = lengths[r];
                float f = inverse[i];
                double scale = 1.5;
                if (n > 4096 && rule == LengthRule::longrope) f = longer[i], scale = 2.5;
                if (n > 4096 && (rule == LengthRule::dynamic || rule == LengthRule::qwen_ntk)) {
                    const double stretch = rule == LengthRule::dynamic
                                               ? 4 * n / 4096 - 3
                                               : std::exp2(std::ceil(std::log2(n / 4096) + 1)) - 1;
                    const double theta = static_cast<float>(10000 * std::pow(stretch, double(dim) / double(dim - 2)));
                    f = 1.0f / static_cast<float>(std::pow(theta, double(float(2 * i) / float(dim))));
                }
                const double angle = static_cast<float>(positions[r]) * f;
                CHECK(std::fabs(y[r * dim + i] - scale * std::cos(angle)) < 3e-7, "cos row %d i %ld", r, long(i));
                CHECK(std::fabs(y[r * dim + half + i] - scale * std::sin(angle)) < 3e-7, "sin row %d i %ld", r,
                      long(i));
            }
        }
    }
}

// What lies in the cache for element d of a row.
float cached(const KVLayer& c, const std::byte* base, bool key, int64_t slot, int64_t head, int64_t d) {
    const int64_t e = c.type == KVType::bf16 ? 2 : 1, size = c.type == KVType::f32 ? 4 : 2;
    const int64_t row = slot % c.block_size, dim = c.head_dim;
    const int64_t rows = kv_tile_rows(c.block_size), in = row % rows, group_bytes = kv_group_bytes(c.type, dim);
    const std::byte* group =
        base + slot / c.block_size * c.block_bytes + head * c.head_bytes + row / rows * rows / 16 * group_bytes;
    const int64_t chunk = d / 64 * 64, width = std::min<int64_t>(64, dim - chunk);
    if (c.type == KVType::i8) {
        const std::byte* byte =
            group + rows * 4 + (key ? (d / 4 * rows + in) * 4 + d % 4 : chunk * rows + in * width + d - chunk);
        float scale;
        std::memcpy(&scale, group + in * 4, 4);
        const int whole = key ? static_cast<int>(*byte) - 128 : static_cast<int8_t>(*byte);
        return scale * static_cast<float>(whole);
    }
    const int64_t at = key ? (d / e * rows + in) * e + d % e : chunk * rows + (in / e * width + d - chunk) * e + in % e;
    uint32_t bits = 0;
    std::memcpy(&bits, group + at * size, static_cast<size_t>(size));
    if (c.type == KVType::bf16) bits <<= 16;
    float f;
    std::memcpy(&f, &bits, 4);
    if (c.type != KVType::f16) return f;
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    f = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                      : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
    return bits & 0x8000 ? -f : f;
}

void heads(const Kernels& kernels) {
    for (KVType type : {KVType::f32, KVType::f16, KVType::bf16, KVType::i8}) {
        for (bool interleaved : {false, true}) {
            const int64_t rows = 3, nq = 4, nkv = 2, dim = 42, turn = 38, start = 2;
            const int64_t head_bytes = 2 * kv_group_bytes(type, dim);
            auto q = random_floats(rows * nq * dim, 1), k = random_floats(rows * nkv * dim, 2),
                 v = random_floats(rows * nkv * dim, 3);
            const auto cs = random_floats(rows * turn, 4), weight = random_floats(dim, 5);
            Buffer<std::byte> keys(5 * nkv * head_bytes), values(5 * nkv * head_bytes);
            const int64_t slots[] = {37, 4 * 32 + 31, 0};
            KVLayer cache{type, nkv, dim, 32, keys.data(), values.data(), head_bytes, nkv * head_bytes};
            Buffer<float> y(rows * nq * dim);
            const Norm qk{NormKind::rms, false, 1e-5f, weight.data(), nullptr};
            QkRopeStoreArgs a{rows,
                              nq,
                              nkv,
                              dim,
                              {q.data(), nq * dim},
                              {k.data(), nkv * dim},
                              {v.data(), nkv * dim},
                              {cs.data(), turn},
                              turn,
                              start,
                              interleaved,
                              qk,
                              qk,
                              slots,
                              cache,
                              y.data(),
                              nq * dim};
            both(y, [&](const Worker& w) { qk_rope_store(kernels, a, w); });

            // The same by single ops: equal bits.
            Buffer<float> qn(rows * nq * dim), kn(rows * nkv * dim);
            norm(kernels, {qk, rows, nq * dim, dim, {q.data(), nq * dim}, qn.data(), nq * dim}, alone());
            norm(kernels, {qk, rows, nkv * dim, dim, {k.data(), nkv * dim}, kn.data(), nkv * dim}, alone());
            std::vector<float> before(kn.data(), kn.data() + kn.size());
            rope(kernels,
                 {rows,
                  nq,
                  dim,
                  turn,
                  start,
                  interleaved,
                  {qn.data(), nq * dim},
                  {cs.data(), turn},
                  qn.data(),
                  nq * dim},
                 alone());
            rope(kernels,
                 {rows,
                  nkv,
                  dim,
                  turn,
                  start,
                  interleaved,
                  {kn.data(), nkv * dim},
                  {cs.data(), turn},
                  kn.data(),
                  nkv * dim},
                 alone());
            CHECK(same_bits(y.data(), qn.data(), y.size()), "%s: fused q differs", kernels.name);
            Buffer<std::byte> keys2(keys.size()), values2(values.size());
            KVLayer cache2 = cache;
            cache2.keys = keys2.data();
            cache2.values = values2.data();
            store(kernels, {rows, {kn.data(), nkv * dim}, {v.data(), nkv * dim}, slots, cache2}, alone());
            CHECK(std::memcmp(keys.data(), keys2.data(), static_cast<size_t>(keys.size())) == 0, "fused keys differ");
            CHECK(std::memcmp(values.data(), values2.data(), static_cast<size_t>(values.size())) == 0,
                  "fused values differ");

            const double slack = type == KVType::f32 || type == KVType::i8 ? 0 : type == KVType::f16 ? 6e-4 : 5e-3;
            const auto rounding = [&](const float* head_row) {  // of a head, half a step of its bytes
                float most = 0;
                for (int64_t d = 0; d < dim; d++) most = std::max(most, std::fabs(head_row[d]));
                return type == KVType::i8 ? most / 127 * 0.5001 : 0;
            };
            for (int64_t r = 0; r < rows; r++) {
                for (int64_t h = 0; h < nkv; h++) {
                    const float* x = before.data() + (r * nkv + h) * dim;
                    const double off_k = rounding(kn.data() + (r * nkv + h) * dim),
                                 off_v = rounding(v.data() + (r * nkv + h) * dim);
                    for (int64_t d = 0; d < dim; d++) {
                        const int64_t i = (r * nkv + h) * dim + d;
                        double want = x[d];
                        if (d >= start && d < start + turn) {
                            const int64_t at = d - start, pair = interleaved ? at / 2 : at % (turn / 2);
                            const bool second = interleaved ? at % 2 : at >= turn / 2;
                            const int64_t other = interleaved ? at ^ 1 : second ? at - turn / 2 : at + turn / 2;
                            const double c = cs[r * turn + pair], s = cs[r * turn + turn / 2 + pair];
                            want = second ? x[d] * c + x[start + other] * s : x[d] * c - x[start + other] * s;
                        }
                        CHECK(std::fabs(kn[i] - want) < 1e-6, "rope at %ld", long(d));
                        CHECK(std::fabs(cached(cache, keys.data(), true, slots[r], h, d) - kn[i]) <=
                                  slack * std::fabs(kn[i]) + slack * 1e-3 + off_k,
                              "key");
                        CHECK(std::fabs(cached(cache, values.data(), false, slots[r], h, d) - v[i]) <=
                                  slack * std::fabs(v[i]) + slack * 1e-3 + off_v,
                              "value");
                    }
                }
            }
        }
    }
}

// Conversions of the cache agree with the instructions on every finite half, ties and limits included.
void halves(const Kernels& kernels) {
    const int64_t dim = 16;
    Random random(9);
    Buffer<std::byte> keys(16 * dim * 2), values(16 * dim * 2);
    for (int turn = 0; turn < 4000; turn++) {
        Buffer<float> x(dim);
        for (int64_t i = 0; i < dim; i++) {
            const uint32_t u = static_cast<uint32_t>(random.next()),
                           bits = (u & 0x8fffffffu) % 0x90000000u + (turn % 2 ? 0x30000000u : 0x31000000u);
            const uint32_t tie = turn % 4 == 0 ? (bits & ~0x1fffu) | 0x1000u : bits;
            std::memcpy(&x[i], &tie, 4);
            if (!(std::fabs(x[i]) < 65504)) x[i] = 1;
        }
        for (KVType type : {KVType::f16, KVType::bf16}) {
            kernels.store(type, x.data(), x.data(), dim, 0, 16, keys.data(), values.data());
            KVLayer cache{type, 1, dim, 16, keys.data(), values.data(), 16 * dim * 2, 16 * dim * 2};
            for (int64_t i = 0; i < dim; i++) {
                int e;
                std::frexp(x[i], &e);
                const int shift = type == KVType::f16 ? (e < -13 ? 24 : 11 - e) : 8 - e;
                const float want = static_cast<float>(
                    std::ldexp(std::nearbyint(std::ldexp(static_cast<double>(x[i]), shift)), -shift));
                const float got = cached(cache, keys.data(), true, 0, 0, i);
                CHECK(got == want, "%s: %.9g became %.9g, want %.9g", kernels.name, double(x[i]), double(got),
                      double(want));
            }
        }
    }
}

}  // namespace

int main() {
    for_all_isas([](const Kernels& kernels) {
        functions(kernels);
        elementwise_kinds(kernels);
        norms(kernels);
        embeddings(kernels);
        angle_rules(kernels);
        heads(kernels);
        halves(kernels);
        std::printf("rows: %s ok\n", kernels.name);
    });
    return 0;
}
