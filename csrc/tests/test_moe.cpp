// Experts against double precision; a row's bits alone, in company, on teams of all sizes; ties, and rows of NaN. The
// same with adapters, of which a row has one or none.
#include "ops/moe.h"

#include <algorithm>
#include <numeric>

#include "support.h"

using namespace penstock;
using namespace penstock::test;

namespace {

struct Shape {
    Format format;
    Act act;
    int64_t rows, hidden, width, experts, top_k;
    bool renormalise, apart = false;
};

// One adapter: factors of every third linear of the experts, ranks from 1 to its largest. Its targets are counted
// backwards, and behind those of others.
struct Adapter {
    int64_t rank;
    std::vector<Weights> a, b;
    std::vector<LoraFactors> found;
    std::vector<const LoraFactors*> table;

    static int target(const Shape& s, int64_t i) { return i % 7 == 6 ? -1 : static_cast<int>(3 * s.experts + 2 - i); }

    Adapter(const Shape& s, int64_t most, int seed) : rank(most), table(3 * s.experts + 3) {
        found.reserve(3 * s.experts);
        for (int64_t i = seed; i < 3 * s.experts; i += i % 2 + 1) {
            if (target(s, i) < 0) continue;
            const bool down = i >= 2 * s.experts;
            const int64_t n = down ? s.hidden : s.width, k = down ? s.width : s.hidden, r = i % most + 1;
            a.push_back(random_weights(Format::f32, r, k, static_cast<uint64_t>(seed * 5000 + i)));
            b.push_back(random_weights(Format::f32, n, r, static_cast<uint64_t>(seed * 7000 + i)));
            found.push_back({a.back().matrix, b.back().matrix, 0.3f + 0.1f * static_cast<float>(seed)});
            table[target(s, i)] = &found.back();
        }
    }
    const LoraFactors* of(const Shape& s, int part, int64_t e) const {
        const int i = target(s, part * s.experts + e);
        return i < 0 ? nullptr : table[i];
    }
};

struct Setup {
    Shape s;
    std::vector<Adapter> adapters;
    std::vector<Weights> weights[3];
    std::vector<Matrix> matrices[3];
    Buffer<float> x, router;

    explicit Setup(const Shape& shape)
        : s(shape),
          x(random_floats(shape.rows * (shape.hidden + 3), 5)),
          router(random_floats(shape.rows * (shape.experts + 1), 6, -2, 2)) {
        for (int part = 0; part < 3; part++) {
            for (int64_t e = 0; e < s.experts; e++) {
                const auto n = part < 2 ? s.width : s.hidden, k = part < 2 ? s.hidden : s.width;
                weights[part].push_back(random_weights(s.format, n, k, static_cast<uint64_t>(part * 1000 + e + 1)));
                matrices[part].push_back(weights[part].back().matrix);
            }
        }
    }

    // The adapter of a row of the whole, -1: none.
    int adapter_of(int64_t row) const {
        return adapters.empty() ? -1 : static_cast<int>(row * 5 % 7 % (static_cast<int64_t>(adapters.size()) + 1)) - 1;
    }

    // y of rows [from, from + rows), one behind the other.
    Buffer<float> run(const Kernels& kernels, int64_t from, int64_t rows, int workers) const {
        MoeArgs a{};
        a.rows = rows;
        a.hidden = s.hidden;
        a.width = s.width;
        a.experts = s.experts;
        a.top_k = s.top_k;
        a.renormalise = s.renormalise;
        a.activation = Activation::silu;
        a.act = a.act_up = a.act_down = s.act;
        a.apart = s.apart;
        a.gate = matrices[0].data();
        a.up = matrices[1].data();
        a.down = matrices[2].data();
        std::vector<int32_t> targets, of, order(rows);
        std::vector<LoraTable> tables;
        for (const Adapter& adapter : adapters) {
            tables.push_back({adapter.table.data(), static_cast<int64_t>(adapter.table.size())});
            a.loras.rank = std::max(a.loras.rank, adapter.rank);
        }
        for (int64_t i = 0; i < 3 * s.experts; i++) targets.push_back(Adapter::target(s, i));
        for (int64_t i = 0; i < rows; i++) of.push_back(adapter_of(from + i));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](int i, int j) {
            return std::pair(i / kMoeChunk, of[i]) < std::pair(j / kMoeChunk, of[j]);
        });
        if (!adapters.empty()) a.loras = {targets.data(), a.loras.rank, of.data(), order.data(), tables.data()};
        measure_experts(a);
        a.x = {x.data() + from * (s.hidden + 3), s.hidden + 3};
        a.router = {router.data() + from * (s.experts + 1), s.experts + 1};
        Buffer<float> y(rows * s.hidden, 77.0f);
        a.y = y.data();
        a.ldy = s.hidden;
        Buffer<std::byte> shared(moe_shared_bytes(a, rows));
        a.shared = shared.data();
        on_team(workers, moe_scratch_bytes(a, rows), [&](const Worker& w) { moe(kernels, a, w); });
        return y;
    }
};

std::vector<double> product(const Weights& w, const std::vector<double>& x) {
    std::vector<double> y(static_cast<size_t>(w.matrix.n));
    for (int64_t i = 0; i < w.matrix.n; i++)
        for (int64_t j = 0; j < w.matrix.k; j++) y[i] += w.values[i * w.matrix.k + j] * x[j];
    return y;
}

double rounded(const Shape& s, double x) { return s.act == Act::bf16 ? bf16_round(static_cast<float>(x)) : x; }

// y += scale * B (A x) of the row's adapter.
void adapt(const Setup& t, int64_t row, int part, int64_t e, const std::vector<double>& x, std::vector<double>& y) {
    const int adapter = t.adapter_of(row);
    const LoraFactors* found = adapter < 0 ? nullptr : t.adapters[adapter].of(t.s, part, e);
    if (found == nullptr) return;
    const Adapter& all = t.adapters[adapter];
    const size_t at = static_cast<size_t>(found - all.found.data());
    const std::vector<double> more = product(all.b[at], product(all.a[at], x));
    for (size_t i = 0; i < y.size(); i++) y[i] += found->scale * more[i];
}

std::vector<double> expected(const Setup& t, int64_t row) {
    const Shape& s = t.s;
    const float* router = t.router.data() + row * (s.experts + 1);
    std::vector<double> p(router, router + s.experts), y(s.hidden);
    for (double& v : p) v = std::exp(v);
    const double mass = std::accumulate(p.begin(), p.end(), 0.0);
    std::vector<int> order(s.experts);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return p[a] > p[b]; });
    double chosen = 0;
    for (int64_t j = 0; j < s.top_k; j++) chosen += p[order[j]];
    std::vector<double> x(s.hidden), exact(s.hidden);
    for (int64_t i = 0; i < s.hidden; i++) x[i] = rounded(s, exact[i] = t.x[row * (s.hidden + 3) + i]);
    for (int64_t j = 0; j < s.top_k; j++) {
        const int e = order[j];
        std::vector<double> gate = product(t.weights[0][e], x);
        std::vector<double> up = product(t.weights[1][e], x), inner(gate.size());
        adapt(t, row, 0, e, exact, gate);
        adapt(t, row, 1, e, exact, up);
        for (size_t i = 0; i < gate.size(); i++)
            gate[i] = rounded(s, inner[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i]);
        std::vector<double> out = product(t.weights[2][e], gate);
        adapt(t, row, 2, e, inner, out);
        for (int64_t i = 0; i < s.hidden; i++) y[i] += p[e] / (s.renormalise ? chosen : mass) * out[i];
    }
    return y;
}

Setup with_adapters(const Shape& shape, const std::vector<int64_t>& ranks) {
    Setup t(shape);
    for (size_t i = 0; i < ranks.size(); i++) t.adapters.emplace_back(shape, ranks[i], static_cast<int>(i));
    return t;
}

void check_values(const Kernels& kernels, const Shape& shape, const std::vector<int64_t>& ranks = {}) {
    const Setup t = with_adapters(shape, ranks);
    const auto y = t.run(kernels, 0, shape.rows, 2);
    const double slack = shape.act == Act::bf16 ? 0.02 : 2e-5;
    for (int64_t row = 0; row < shape.rows; row++) {
        const std::vector<double> want = expected(t, row);
        for (int64_t i = 0; i < shape.hidden; i++) {
            const double got = y[row * shape.hidden + i];
            CHECK(std::fabs(got - want[i]) < slack * (1 + std::fabs(want[i])), "%s %s row %ld column %ld: %g, want %g",
                  kernels.name, format_name(shape.format), long(row), long(i), got, want[i]);
        }
    }
}

void check_bits(const Kernels& kernels, const Shape& shape, const std::vector<int64_t>& sizes,
                const std::vector<int64_t>& ranks = {}) {
    const Setup t = with_adapters(shape, ranks);
    const auto whole = t.run(kernels, 0, shape.rows, 1);
    int workers = 1;
    for (const int64_t size : sizes) {
        for (int64_t from = 0; from < shape.rows; from += size) {
            const int64_t rows = std::min(size, shape.rows - from);
            const auto y = t.run(kernels, from, rows, workers = workers % 5 + 1);
            CHECK(same_bits(y.data(), whole.data() + from * shape.hidden, rows * shape.hidden),
                  "%s %s: rows %ld on %d workers", kernels.name, format_name(shape.format), long(size), workers);
        }
    }
}

// Gate and up one by one are gate and up together, to the bit.
void check_apart(const Kernels& kernels, Shape shape) {
    const auto together = Setup(shape).run(kernels, 0, shape.rows, 1);
    shape.apart = true;
    for (const int workers : {1, 3}) {
        const auto y = Setup(shape).run(kernels, 0, shape.rows, workers);
        CHECK(same_bits(y.data(), together.data(), shape.rows * shape.hidden), "%s %s: apart on %d workers",
              kernels.name, format_name(shape.format), workers);
    }
}

// Rows without an adapter keep their bits beside rows that have one, which change.
void check_plain_rows(const Kernels& kernels, const Shape& shape) {
    const auto plain = Setup(shape).run(kernels, 0, shape.rows, 1);
    const Setup t = with_adapters(shape, {4, 19});
    const auto y = t.run(kernels, 0, shape.rows, 3);
    for (int64_t row = 0; row < shape.rows; row++) {
        const int64_t at = row * shape.hidden;
        CHECK(same_bits(y.data() + at, plain.data() + at, shape.hidden) == (t.adapter_of(row) < 0), "%s %s: row %ld",
              kernels.name, format_name(shape.format), long(row));
    }
}

// Equal scores go to the lowest experts; what a row of NaN chooses harms no other row.
void check_odd_rows(const Kernels& kernels) {
    Setup t({Format::f32, Act::f32, 3, 16, 16, 6, 2, true});
    const auto before = t.run(kernels, 0, 3, 2);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (int e = 0; e < 6; e++) t.router[e] = 1, t.router[7 + e] = e == 3 ? nan : 0;
    const auto after = t.run(kernels, 0, 3, 2);
    CHECK(same_bits(before.data() + 32, after.data() + 32, 16), "a row of NaN shows in another");
    for (int i = 16; i < 32; i++) CHECK(std::isnan(after[i]), "the router's NaN is lost");
    t.router[0] = t.router[1] = 1.5f;
    const std::vector<double> want = expected(t, 0);
    for (int i = 0; i < 16; i++) CHECK(std::fabs(after[i] - want[i]) < 1e-4, "ties are not the lowest experts'");
}

// Experts that no row chose are not touched: here they have no memory.
void check_only_chosen_are_read(const Kernels& kernels) {
    Setup t({Format::f32, Act::f32, 3, 16, 16, 6, 2, true});
    for (int row = 0; row < 3; row++) t.router[row * 7 + 1] = t.router[row * 7 + 4] = 5;
    const auto before = t.run(kernels, 0, 3, 2);
    for (auto& part : t.matrices)
        for (const int e : {0, 2, 3, 5}) part[e].data = nullptr;
    const auto after = t.run(kernels, 0, 3, 2);
    CHECK(same_bits(before.data(), after.data(), 48), "experts that were not chosen show");
}

}  // namespace

int main() {
    for_all_isas([](const Kernels& kernels) {
        for (const auto& [format, act] : {std::pair{Format::f32, Act::f32}, std::pair{Format::f16, Act::f32},
                                          std::pair{Format::bf16, Act::f32}, std::pair{Format::bf16, Act::bf16}}) {
            check_values(kernels, {format, act, 9, 48, 40, 7, 3, true});
            check_values(kernels, {format, act, 5, 33, 17, 4, 1, false});
            check_values(kernels, {format, act, 9, 48, 40, 7, 3, true, true});
            check_apart(kernels, {format, act, 70, 48, 40, 7, 3, true});
            check_bits(kernels, {format, act, 70, 48, 40, 7, 3, false}, {70, 1, 3, 17, 64});
            check_values(kernels, {format, act, 9, 48, 40, 7, 3, true}, {4, 19, 1});
            check_values(kernels, {format, act, 5, 33, 17, 4, 1, false, true}, {2});
            check_bits(kernels, {format, act, 70, 48, 40, 7, 3, true}, {70, 1, 3, 17, 64}, {4, 19, 1});
            check_plain_rows(kernels, {format, act, 70, 48, 40, 7, 3, true});
        }
        check_bits(kernels, {Format::f32, Act::f32, 1500, 16, 32, 3, 2, true}, {1500, 1024, 1100});
        check_bits(kernels, {Format::f32, Act::f32, 1500, 16, 32, 3, 2, true}, {1500, 1024, 1100}, {3, 17});
        check_odd_rows(kernels);
        check_only_chosen_are_read(kernels);
    });
    std::puts("moe: every case right");
    return 0;
}
