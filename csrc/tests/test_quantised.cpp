// linear and embed over quantised weights: against sums in double precision of
// the numbers that codes and scales stand for, and against itself: a row's bits
// depend neither on the rows beside it nor on the workers nor on what is fused.
#include "formats/pack.h"
#include "support.h"

using namespace penstock;
using namespace penstock::test;

namespace {

// A packed matrix and its numbers.
struct Made {
    std::string name;
    Buffer<float> values;
    Buffer<std::byte> packed;
    std::vector<int32_t> order;
    Matrix matrix;
};

Made packed(const std::string& name, QuantSource source, int64_t n, int64_t k, Buffer<float> values) {
    const int64_t tiles = (n + kTile - 1) / kTile, bytes = quant_tile_bytes(source.quant), cut = tiles / 2;
    Made m{name, std::move(values), Buffer<std::byte>(tiles * bytes, std::byte{0xff}), source.order, {}};
    pack_quantised(source.quant, n, source.read, m.packed.data(), 0, cut);
    pack_quantised(source.quant, n, source.read, m.packed.data(), cut, tiles);
    m.matrix = {Format::quantised, n, k, tiles, bytes, m.packed.data(), source.quant};
    m.matrix.quant.order = m.order.empty() ? nullptr : m.order.data();
    return m;
}

enum class Zeros { none, same, whole, half, any };
enum class Order { none, shuffled, uneven };

struct Coded {
    std::string format;
    int64_t group;
    Zeros zeros = Zeros::none;
    Order order = Order::none;
    bool half_scales = true, one_scale = false;
};

float e4m3_value(int code) {
    const int e = code >> 3 & 15, m = code & 7;
    const double size = e > 0 ? std::ldexp(8 + m, e - 10) : std::ldexp(m, -9);
    return static_cast<float>(code >> 7 ? -size : size);
}

Made coded(const Coded& c, int64_t n, int64_t k, uint64_t seed) {
    Random random(seed);
    const int64_t group = std::min(c.group, k), groups = (k + group - 1) / group;
    const int64_t ld = c.format == "int4" ? (k + 1) / 2 : k;
    Buffer<uint8_t> codes(n * ld);
    for (int64_t i = 0; i < codes.size(); i++)
        codes[i] = static_cast<uint8_t>(random.below(c.format == "fp8" ? 127 : 256));
    if (c.format == "fp8")
        for (int64_t i = 0; i < codes.size(); i += 3) codes[i] |= 128;
    Buffer<float> scales = random_floats(n * groups, seed + 1, 0.01f, 0.02f), zeros(n * groups);
    for (int64_t i = 0; i < n * groups; i++) {
        if (c.half_scales) scales[i] = f16_round(scales[i]);
        const float low = c.format == "int4" ? 0.0f : -20.0f;
        if (c.zeros == Zeros::same) zeros[i] = 8;
        if (c.zeros == Zeros::whole) zeros[i] = std::floor(random.uniform(low, 15));
        if (c.zeros == Zeros::half) zeros[i] = std::floor(random.uniform(low, 15)) + 0.5f;
        if (c.zeros == Zeros::any) zeros[i] = random.uniform(low, 15);
    }
    Random places(99);  // matrices of so many inputs share their order
    std::vector<int32_t> index(static_cast<size_t>(k));
    for (int64_t i = 0; i < k; i++)
        index[static_cast<size_t>(i)] =
            static_cast<int32_t>(c.order == Order::uneven ? places.below(groups) : i / group);
    if (c.order == Order::shuffled)
        for (int64_t i = k - 1; i > 0; i--)
            std::swap(index[static_cast<size_t>(i)], index[static_cast<size_t>(places.below(i + 1))]);
    const bool has_zeros = c.zeros != Zeros::none;
    Buffer<float> values(n * k);
    for (int64_t row = 0; row < n; row++)
        for (int64_t i = 0; i < k; i++) {
            const uint8_t byte = codes[row * ld + (c.format == "int4" ? i / 2 : i)];
            const float code = c.format == "int4"   ? static_cast<float>(i % 2 ? byte >> 4 : byte & 15)
                               : c.format == "int8" ? static_cast<float>(static_cast<int8_t>(byte))
                                                    : e4m3_value(byte);
            const int64_t g = row * groups + index[static_cast<size_t>(i)];
            values[row * k + i] = (code - (has_zeros ? zeros[g] : 0.0f)) * scales[g];
        }
    CodedRows rows{c.format,
                   n,
                   k,
                   codes.data(),
                   ld,
                   scales.data(),
                   groups,
                   has_zeros ? zeros.data() : nullptr,
                   groups,
                   group,
                   c.order == Order::none ? nullptr : index.data(),
                   c.one_scale};
    const std::string name = c.format + " group " + std::to_string(group) + " zeros " +
                             std::to_string(static_cast<int>(c.zeros)) + " order " +
                             std::to_string(static_cast<int>(c.order));
    return packed(name, coded_source(rows), n, k, std::move(values));
}

// ggml's blocks of random codes; their numbers are those that embedding gives,
// which other tests hold against ggml's.
struct Blocks {
    const char* name;
    int64_t elements, bytes;
    std::vector<int> halves;  // where a block's float16 numbers are
};
const Blocks kBlocks[] = {{"q8_0", 32, 34, {0}},       {"q4_0", 32, 18, {0}},     {"q4_1", 32, 20, {0, 2}},
                          {"q5_0", 32, 22, {0}},       {"q5_1", 32, 24, {0, 2}},  {"iq4_nl", 32, 18, {0}},
                          {"q2_k", 256, 84, {80, 82}}, {"q3_k", 256, 110, {108}}, {"q4_k", 256, 144, {0, 2}},
                          {"q5_k", 256, 176, {0, 2}},  {"q6_k", 256, 210, {208}}, {"iq4_xs", 256, 136, {0}}};

Made blocks(const Blocks& b, int64_t n, int64_t k, uint64_t seed) {
    Random random(seed);
    const int64_t bytes = k / b.elements * b.bytes;
    Buffer<uint8_t> raw(n * bytes);
    for (int64_t i = 0; i < raw.size(); i++) raw[i] = static_cast<uint8_t>(random.next() >> 20);
    for (int64_t block = 0; block < raw.size(); block += b.bytes)
        for (const int at : b.halves) {
            const uint16_t half = static_cast<uint16_t>(0x1800 + random.below(0x400));  // about 2^-9
            std::memcpy(raw.data() + block + at, &half, 2);
        }
    Made m = packed(b.name, block_source({b.name, n, k, raw.data(), bytes, bytes}), n, k, Buffer<float>(n * k));
    for (int64_t row = 0; row < n; row++) generic_kernels().gather(m.matrix, row, 0, k, 1, m.values.data() + row * k);
    return m;
}

// Inputs as whole numbers times a scale, by the rule that Quant states.
void round_inputs(const Quant& q, const float* x, int64_t k, double* out) {
    std::vector<float> sorted(static_cast<size_t>(q.inputs));
    const auto input = [&](int64_t i) { return q.order == nullptr ? i : int64_t{q.order[i]}; };
    for (int64_t i = 0; i < q.inputs; i++) sorted[static_cast<size_t>(i)] = input(i) < 0 ? 0 : x[input(i)];
    float row_most = 0;
    for (int64_t i = 0; i < k; i++) row_most = std::max(row_most, std::fabs(x[i]));
    // Steps: so many inputs of a long group; or as many short groups of a chunk as have no more with what fills them
    // up.
    std::vector<std::pair<int64_t, int64_t>> steps;
    const int64_t together = std::max<int64_t>(1, kStepInputs / q.padded());
    for (int64_t g = 0; g < q.groups();) {
        const int64_t chunk_end = std::min(q.groups(), (g / q.per_chunk + 1) * q.per_chunk);
        if (q.padded() > kStepInputs) {
            for (int64_t i = 0; i < q.inputs_of(g); i += kStepInputs)
                steps.emplace_back(g * q.group + i, g * q.group + std::min<int64_t>(i + kStepInputs, q.inputs_of(g)));
            g++;
            continue;
        }
        const int64_t end = std::min(chunk_end, g + together);
        steps.emplace_back(g * q.group, std::min<int64_t>(end * q.group, q.inputs));
        g = end;
    }
    for (const auto& [from, end] : steps) {
        float most = 0;
        for (int64_t i = from; i < end; i++) most = std::max(most, std::fabs(sorted[static_cast<size_t>(i)]));
        if (q.one_scale) most = row_most;
        const float factor = most > 0 ? 127.0f / most : 0.0f;
        const double scale = static_cast<double>(most / 127.0f);
        for (int64_t i = from; i < end; i++)
            if (input(i) >= 0) out[input(i)] = scale * std::nearbyintf(sorted[static_cast<size_t>(i)] * factor);
    }
}

struct Setup {
    const std::vector<const Made*> parts;
    Act act;
    NormKind norm = NormKind::none;
    Activation activation = Activation::none;
    bool residual = false;
    int64_t rows = 33;

    int64_t k() const { return parts[0]->matrix.k; }
    int64_t ld() const { return k() + 3; }
    Buffer<float> inputs() const { return random_floats(rows * ld(), 1, -2, 2); }
    Norm norm_args(const Buffer<float>& weight) const {
        Norm n;
        n.kind = norm;
        n.eps = 1e-5f;
        n.weight = weight.data();
        return n;
    }
    std::vector<Buffer<float>> run(const Kernels& kernels, int64_t from, int64_t count, int workers) const {
        const Buffer<float> x = inputs(), weight = random_floats(k(), 2, 0.5f, 1.5f);
        const Buffer<float> kept = random_floats(rows * parts[0]->matrix.n, 3);
        std::vector<Buffer<float>> y;
        LinearArgs a{};
        a.norm = norm_args(weight);
        a.act = act;
        a.activation = activation;
        a.x = {x.data() + from * ld(), ld()};
        a.rows = count;
        a.k = k();
        a.parts = static_cast<int>(parts.size());
        for (size_t i = 0; i < parts.size(); i++) {
            const Matrix& m = parts[i]->matrix;
            y.emplace_back(count * (m.n + 5), 77.0f);
            a.part[i] = {m, nullptr, y[i].data(), m.n + 5};
        }
        if (residual) a.residual = {kept.data() + from * parts[0]->matrix.n, parts[0]->matrix.n};
        const Matrix& m = parts[0]->matrix;
        Buffer<std::byte> shared(linear_shared_bytes(m, act, count));
        a.shared = shared.data();
        on_team(workers, linear_scratch_bytes(m, act), [&](const Worker& w) { linear(kernels, a, w); });
        return y;
    }
};

void check_values(const Kernels& kernels, const Made& m, Act act, int64_t rows) {
    const Setup s{{&m}, act, NormKind::none, Activation::none, false, rows};
    const auto y = s.run(kernels, 0, rows, 2);
    const Buffer<float> x = s.inputs();
    const int64_t k = m.matrix.k, n = m.matrix.n;
    std::vector<double> in(static_cast<size_t>(k));
    for (int64_t r = 0; r < rows; r++) {
        const float* row = x.data() + r * s.ld();
        for (int64_t i = 0; i < k; i++) in[static_cast<size_t>(i)] = row[i];
        if (act == Act::i8) round_inputs(m.matrix.quant, row, k, in.data());
        for (int64_t c = 0; c < n; c++) {
            double want = 0, size = 0;
            for (int64_t i = 0; i < k; i++) {
                const double product = in[static_cast<size_t>(i)] * m.values[c * k + i];
                want += product;
                size += std::fabs(product);
            }
            // Codes and zero points are taken apart, so what rounds is larger than
            // the product by their ratio.
            const double got = y[0][r * (n + 5) + c], slack = 1e-6 * (1 + 8 * size);
            CHECK(std::fabs(got - want) < slack, "%s %s act %d n %ld k %ld row %ld of %ld column %ld: %.9g, want %.9g",
                  kernels.name, m.name.c_str(), int(act), long(n), long(k), long(r), long(rows), long(c), got, want);
        }
        for (int64_t c = n; c < n + 5; c++) CHECK(y[0][r * (n + 5) + c] == 77.0f, "padding written");
    }
}

void check_gather(const Kernels& kernels, const Made& m) {
    const int64_t k = m.matrix.k;
    for (int64_t row = 0; row < m.matrix.n; row += 7) {
        const int64_t begin = k / 3, end = k - k / 5;
        Buffer<float> y(end - begin);
        kernels.gather(m.matrix, row, begin, end, 2, y.data());
        for (int64_t i = begin; i < end; i++) {
            const float want = 2 * m.values[row * k + i], slack = 1e-5f * (1 + std::fabs(want));
            CHECK(std::fabs(y[i - begin] - want) < slack, "%s %s row %ld element %ld: %.9g, want %.9g", kernels.name,
                  m.name.c_str(), long(row), long(i), double(y[i - begin]), double(want));
        }
    }
}

// Rows alone, in blocks of all sizes, on 1 to 8 workers: one set of bits.
void check_bits(const Kernels& kernels, const Setup& s) {
    const auto whole = s.run(kernels, 0, s.rows, 1);
    const size_t stored = s.activation != Activation::none ? 1 : whole.size();
    const auto compare = [&](int64_t from, int64_t rows, int workers) {
        const auto y = s.run(kernels, from, rows, workers);
        for (size_t p = 0; p < stored; p++)
            for (int64_t r = 0; r < rows; r++) {
                const int64_t ld = s.parts[p]->matrix.n + 5;
                CHECK(same_bits(y[p].data() + r * ld, whole[p].data() + (from + r) * ld, ld),
                      "%s %s act %d: row %ld of %ld from %ld differs with %d workers", kernels.name,
                      s.parts[p]->name.c_str(), int(s.act), long(r), long(rows), long(from), workers);
            }
    };
    for (int64_t rows = 1; rows <= s.rows; rows += kWatched ? 7 : rows < 10 ? 1 : 5)
        compare(s.rows - rows, rows, 1 + static_cast<int>(rows) % 3);
    for (int workers = 2; workers <= (kWatched ? 2 : 8); workers += 2) compare(0, s.rows, workers);
    compare(2, 3, 7);
}

// A fused op gives the bits of the ops it is made of.
void check_fused(const Kernels& kernels, const Made& gate, const Made& up, Act act) {
    const Setup fused{{&gate, &up}, act, NormKind::rms, Activation::silu, false, 9};
    const auto y = fused.run(kernels, 0, 9, 2);
    const Buffer<float> x = fused.inputs(), weight = random_floats(fused.k(), 2, 0.5f, 1.5f);
    const int64_t n = gate.matrix.n, k = fused.k();
    Buffer<float> normed(9 * k), parts[2] = {Buffer<float>(9 * n), Buffer<float>(9 * n)};
    for (int64_t r = 0; r < 9; r++)
        kernels.norm(fused.norm_args(weight), x.data() + r * fused.ld(), normed.data() + r * k, k);
    for (int p = 0; p < 2; p++) {
        LinearArgs a{};
        a.act = act;
        a.x = {normed.data(), k};
        a.rows = 9;
        a.k = k;
        a.parts = 1;
        a.part[0] = {p == 0 ? gate.matrix : up.matrix, nullptr, parts[p].data(), n};
        Buffer<std::byte> shared(linear_shared_bytes(gate.matrix, act, 9));
        a.shared = shared.data();
        on_team(1, linear_scratch_bytes(gate.matrix, act), [&](const Worker& w) { linear(kernels, a, w); });
    }
    for (int64_t r = 0; r < 9; r++) {
        kernels.elementwise(ElementwiseArgs::Kind::gated, Activation::silu, 0, parts[0].data() + r * n,
                            parts[1].data() + r * n, parts[0].data() + r * n, n);
        CHECK(same_bits(parts[0].data() + r * n, y[0].data() + r * (n + 5), n), "%s %s: fused differs", kernels.name,
              gate.name.c_str());
    }
}

void check_halves() {
    for (int h = 0; h < 0x7c00; h++) {
        const float x = h >= 0x400 ? std::ldexp(1024 + h % 1024, h / 1024 - 25) : std::ldexp(h, -24);
        CHECK(is_half(x) && is_half(-x) && to_half(x) == h && to_half(-x) == (h | 0x8000), "%d", h);
        CHECK(!is_half(std::nextafter(x, 1e9f)), "%d", h);
    }
    CHECK(!is_half(65536.0f) && !is_half(INFINITY) && !is_half(NAN), "too large");
    CHECK(to_half(INFINITY) == 0x7c00 && to_half(-INFINITY) == 0xfc00, "infinity");
}

// A NaN or an infinity in a row stays in that row, and is seen.
void check_broken_rows(const Kernels& kernels) {
    const Made m = coded({"int8", 32}, 20, 96, 5);
    Buffer<float> x = random_floats(3 * 96, 1), y(3 * 20);
    x[96 + 40] = NAN;
    x[2 * 96 + 95] = INFINITY;
    LinearArgs a{};
    a.act = Act::i8;
    a.x = {x.data(), 96};
    a.rows = 3;
    a.k = 96;
    a.parts = 1;
    a.part[0] = {m.matrix, nullptr, y.data(), 20};
    Buffer<std::byte> shared(linear_shared_bytes(m.matrix, Act::i8, 3));
    a.shared = shared.data();
    on_team(1, linear_scratch_bytes(m.matrix, Act::i8), [&](const Worker& w) { linear(kernels, a, w); });
    for (int64_t i = 0; i < 60; i++)
        CHECK(std::isfinite(y[i]) == (i < 20), "%s: %ld is %g", kernels.name, long(i), double(y[i]));
}

}  // namespace

int main() {
    check_halves();
    for_all_cores([](const Kernels& kernels) {
        check_broken_rows(kernels);
        const Coded kinds[] = {
            {"int8", 32},
            {"int8", 1 << 20, Zeros::none, Order::none, false},
            {"int8", 128, Zeros::whole},
            {"int8", 64, Zeros::none, Order::none, true, true},
            {"int8", 1 << 20, Zeros::none, Order::none, true, true},
            {"int8", 32, Zeros::whole, Order::shuffled},
            {"int4", 32, Zeros::same},
            {"int4", 128, Zeros::whole},
            {"int4", 64, Zeros::half, Order::none, false},
            {"int4", 32, Zeros::any},
            {"int4", 20, Zeros::same, Order::none, false},
            {"int4", 48, Zeros::whole},
            {"int8", 200, Zeros::whole},
            {"int4", 1 << 20, Zeros::same},
            {"int4", 64, Zeros::whole, Order::shuffled},
            {"int4", 32, Zeros::same, Order::uneven},
            {"fp8", 128, Zeros::none, Order::none, false},
            {"fp8", 1 << 20, Zeros::none, Order::none, false},
        };
        for (const Coded& kind : kinds)
            for (Act act : {Act::f32, Act::i8}) {
                if (kind.format == "fp8" && act == Act::i8) continue;
                for (const auto& [n, k] : {std::pair<int64_t, int64_t>{37, 98}, {16, 300}, {1, 2}, {70, 520}}) {
                    if (kWatched && n == 70) continue;
                    const Made m = coded(kind, n, k, 7);
                    for (const int64_t rows : {1, 5, 33}) check_values(kernels, m, act, n == 70 ? 3 : rows);
                    check_gather(kernels, m);
                }
                const Made a = coded(kind, 83, 262, 8), b = coded(kind, 83, 262, 8), c = coded(kind, 9, 262, 8);
                check_bits(kernels, {{&a, &c}, act, NormKind::rms});
                check_bits(kernels, {{&a}, act, NormKind::none, Activation::none, true, 130});
                CHECK(a.matrix.quant.same_inputs(c.matrix.quant), "orders differ");
                check_fused(kernels, a, b, act);
            }
        {  // Many panels, and pieces of inputs and of tiles, where sums go over all inputs.
            const Made m = coded({"int8", 1 << 20, Zeros::none, Order::none, false, true}, 330, 1804, 9);
            check_bits(kernels, {{&m}, Act::i8, NormKind::none, Activation::none, false, kWatched ? 40 : 150});
        }
        {  // Tiles that are gone through in several pieces (whole_steps.h), the last step of which is half a one.
            const Made m = coded({"int8", 128, Zeros::none, Order::none, false}, 20, 9088, 10);
            for (const int64_t rows : {1, 19}) check_values(kernels, m, Act::i8, rows);
            check_bits(kernels, {{&m}, Act::i8, NormKind::none, Activation::none, false, 40});
        }
        for (const Blocks& kind : kBlocks)
            for (Act act : {Act::f32, Act::i8}) {
                const int64_t k = kind.elements == 32 ? 288 : 768;
                const Made m = blocks(kind, 37, k, 7), other = blocks(kind, 37, k, 8);
                for (const int64_t rows : {1, 3, 33}) check_values(kernels, m, act, rows);
                check_gather(kernels, m);
                check_bits(kernels, {{&m, &other}, act, NormKind::layer, Activation::none, false, 70});
                check_bits(kernels, {{&m, &other}, act, NormKind::rms, Activation::gelu, false, 20});
                check_fused(kernels, m, other, act);
            }
        std::printf("quantised: %s ok\n", kernels.name);
    });
    return 0;
}
