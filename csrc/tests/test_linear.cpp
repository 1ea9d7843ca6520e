// linear against a plain loop in double precision, and against itself: a row's bits depend neither on the rows beside
// it nor on the number of workers nor on what is fused.
#include "support.h"

using namespace penstock;
using namespace penstock::test;

namespace {

struct Case {
    int64_t k;
    std::vector<int64_t> n;
    Format format;
    Act act;
    NormKind norm = NormKind::none;
    Activation activation = Activation::none;
    bool residual = false, bias = false;
};

struct Setup {
    Case c;
    int64_t most_rows;
    Buffer<float> x, norm_weight, residual;
    std::vector<Weights> weights;
    std::vector<Buffer<float>> biases;

    Setup(const Case& c, int64_t most)
        : c(c),
          most_rows(most),
          x(random_floats(most * (c.k + 3), 1)),
          norm_weight(random_floats(c.k, 2, 0.5f, 1.5f)),
          residual(random_floats(most * c.n[0], 3)) {
        for (size_t i = 0; i < c.n.size(); i++) {
            weights.push_back(random_weights(c.format, c.n[i], c.k, 10 + i));
            biases.push_back(random_floats(c.n[i], 20 + i));
        }
    }
    Norm norm() const {
        Norm n;
        n.kind = c.norm;
        n.eps = 1e-5f;
        n.weight = norm_weight.data();
        return n;
    }
    // y of all parts one behind the other, for rows [from, from + rows).
    std::vector<Buffer<float>> run(const Kernels& kernels, int64_t from, int64_t rows, int workers) const {
        std::vector<Buffer<float>> y;
        LinearArgs a{};
        a.norm = norm();
        a.act = c.act;
        a.activation = c.activation;
        a.x = {x.data() + from * (c.k + 3), c.k + 3};
        a.rows = rows;
        a.k = c.k;
        a.parts = static_cast<int>(c.n.size());
        for (size_t i = 0; i < c.n.size(); i++) {
            const int64_t ld = c.n[i] + 5;
            y.emplace_back(rows * ld, 77.0f);
            a.part[i] = {weights[i].matrix, c.bias ? biases[i].data() : nullptr, y[i].data(), ld};
        }
        if (c.residual) {  // in place
            for (int64_t r = 0; r < rows; r++)
                std::copy_n(residual.data() + (from + r) * c.n[0], c.n[0], y[0].data() + r * (c.n[0] + 5));
            a.residual = {y[0].data(), c.n[0] + 5};
        }
        Buffer<std::byte> shared(linear_shared_bytes(c.act, rows, c.k));
        a.shared = shared.data();
        on_team(workers, linear_scratch_bytes(c.act, c.k), [&](const Worker& w) { linear(kernels, a, w); });
        return y;
    }
};

double activated(Activation kind, double x) {
    switch (kind) {
        case Activation::silu:
            return x / (1 + std::exp(-x));
        case Activation::gelu:
            return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
        case Activation::gelu_tanh:
            return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
        case Activation::relu:
            return x > 0 ? x : 0;
        case Activation::none:
            return x;
    }
    return x;
}

void check_values(const Kernels& kernels, const Setup& s, int64_t rows) {
    const Case& c = s.c;
    const auto y = s.run(kernels, 0, rows, 2);
    // The rounding of inputs to bf16 must be the op's own: take the normed rows from the norm op.
    Buffer<float> normed(rows * c.k);
    for (int64_t r = 0; r < rows; r++) {
        const float* x = s.x.data() + r * (c.k + 3);
        if (c.norm == NormKind::none)
            std::copy_n(x, c.k, normed.data() + r * c.k);
        else
            kernels.norm(s.norm(), x, normed.data() + r * c.k, c.k);
    }
    const auto product = [&](size_t part, int64_t r, int64_t n) {
        double sum = 0;
        for (int64_t i = 0; i < c.k; i++) {
            const float x = normed[r * c.k + i];
            sum += static_cast<double>(c.act == Act::bf16 ? bf16_round(x) : x) * s.weights[part].values[n * c.k + i];
        }
        return sum + (c.bias ? s.biases[part][n] : 0.0f);
    };
    const size_t parts = c.activation != Activation::none ? 1 : c.n.size();
    for (size_t p = 0; p < parts; p++) {
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t n = 0; n < c.n[p]; n++) {
                double want = product(p, r, n);
                if (c.activation != Activation::none) want = activated(c.activation, want) * product(1, r, n);
                if (c.residual) want += s.residual[r * c.n[0] + n];
                const double got = y[p][r * (c.n[p] + 5) + n];
                const double slack = 2e-6 * (1 + std::sqrt(static_cast<double>(c.k))) * (1 + std::fabs(want));
                CHECK(std::fabs(got - want) < slack, "%s %s act %d k %ld part %zu row %ld column %ld: %.9g, want %.9g",
                      kernels.name, format_name(c.format), int(c.act), long(c.k), p, long(r), long(n), got, want);
            }
            for (int64_t n = c.n[p]; n < c.n[p] + 5; n++) CHECK(y[p][r * (c.n[p] + 5) + n] == 77.0f, "padding written");
        }
    }
}

// Rows alone, in blocks of all sizes, on 1 to 8 workers: one set of bits.
void check_bits(const Kernels& kernels, const Setup& s) {
    const auto whole = s.run(kernels, 0, s.most_rows, 1);
    const auto compare = [&](const std::vector<Buffer<float>>& y, int64_t from, int64_t rows, int workers) {
        for (size_t p = 0; p < y.size(); p++)
            for (int64_t r = 0; r < rows; r++) {
                const int64_t ld = s.c.n[p] + 5;
                CHECK(same_bits(y[p].data() + r * ld, whole[p].data() + (from + r) * ld, ld),
                      "%s %s act %d k %ld: row %ld of %ld from %ld differs with %d workers", kernels.name,
                      format_name(s.c.format), int(s.c.act), long(s.c.k), long(r), long(rows), long(from), workers);
            }
    };
    for (int64_t rows = 1; rows <= s.most_rows; rows += kWatched ? 6 : 1) {
        const int workers = 1 + static_cast<int>(rows) % 3;
        compare(s.run(kernels, s.most_rows - rows, rows, workers), s.most_rows - rows, rows, workers);
    }
    for (int workers = 2; workers <= (kWatched ? 3 : 8); workers++) {
        compare(s.run(kernels, 0, s.most_rows, workers), 0, s.most_rows, workers);
        compare(s.run(kernels, 2, 3, workers), 2, 3, workers);
    }
}

// A fused op gives the bits of the ops it is made of.
void check_fused(const Kernels& kernels, Case c) {
    const Setup fused(c, 5);
    const auto y = fused.run(kernels, 0, 5, 2);
    Case plain = c;
    plain.norm = NormKind::none;
    plain.activation = Activation::none;
    plain.residual = false;
    Setup split(plain, 5);
    if (c.norm != NormKind::none)
        for (int64_t r = 0; r < 5; r++)
            kernels.norm(fused.norm(), fused.x.data() + r * (c.k + 3), split.x.data() + r * (c.k + 3), c.k);
    auto z = split.run(kernels, 0, 5, 1);
    const int64_t n = c.n[0], ld = n + 5;
    Worker alone{};
    alone.count = 1;
    ElementwiseArgs e{};
    e.rows = 5;
    e.width = n;
    e.a = {z[0].data(), ld};
    e.y = z[0].data();
    e.ldy = ld;
    if (c.activation != Activation::none) {
        e.kind = ElementwiseArgs::Kind::gated;
        e.activation = c.activation;
        e.b = {z[1].data(), ld};
        elementwise(kernels, e, alone);
    }
    if (c.residual) {
        e.kind = ElementwiseArgs::Kind::add;
        e.b = e.a;
        e.a = {fused.residual.data(), n};
        elementwise(kernels, e, alone);
    }
    for (size_t p = 0; p < (c.activation != Activation::none ? 1 : y.size()); p++)
        CHECK(same_bits(y[p].data(), z[p].data(), y[p].size()), "%s %s: fused differs", kernels.name,
              format_name(c.format));
}

}  // namespace

int main() {
    for_all_isas([](const Kernels& kernels) {
        for (Format format : {Format::f32, Format::f16, Format::bf16}) {
            for (Act act : {Act::f32, Act::bf16}) {
                for (int64_t k : {1, 2, 7, 64, 129}) {
                    Case c{k, {37, 1, 16}, format, act};
                    c.bias = k % 2 == 1;
                    check_values(kernels, Setup(c, 33), 33);
                }
                Case c{131, {97}, format, act, NormKind::rms, Activation::none, true, true};
                check_values(kernels, Setup(c, 7), 7);
                check_bits(kernels, Setup(c, 33));
                check_fused(kernels, c);
                for (Activation kind : {Activation::silu, Activation::gelu, Activation::gelu_tanh, Activation::relu}) {
                    Case gated{50, {83, 83}, format, act, NormKind::layer, kind, false, true};
                    check_values(kernels, Setup(gated, 9), 9);
                    check_fused(kernels, gated);
                }
                check_bits(kernels, Setup({66, {200, 33, 17}, format, act, NormKind::layer}, 26));
                check_bits(kernels,
                           Setup({kWatched ? 300 : 3000, {40, 40}, format, act, NormKind::rms, Activation::silu}, 14));
            }
        }
        // Many panels, and pieces of inputs and of tiles, on a matrix unit.
        check_bits(kernels, Setup({kWatched ? 450 : 1001, {kWatched ? 50 : 330}, Format::bf16, Act::bf16}, 70));
        // Matrices whose tiles are given out piece by piece.
        check_bits(kernels, Setup({300, {600, 41}, Format::f32, Act::f32}, 9));
        check_bits(kernels, Setup({260, {560, 560}, Format::f32, Act::f32, NormKind::rms, Activation::silu}, 6));
        // Few tiles and many rows: workers share the rows out.
        check_bits(kernels, Setup({32, {20}, Format::f32, Act::f32}, 150));
        std::printf("linear: %s ok\n", kernels.name);
    });
    return 0;
}
