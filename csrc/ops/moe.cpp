// moe: choose experts for all rows; then, some rows at a time, bring the rows that chose an expert together and give
// each worker its share of (expert, rows, tiles of weights), as calls of `linear` on one worker.
#include "ops/moe.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/table.h"

namespace penstock {
namespace {

// Rows worked on at once, which bounds the memory between the phases. Experts that few of them chose are read again
// for the next ones.
constexpr int64_t kChunk = 1024;
// Rows of one expert in one call: the input panels stay in the second-level cache for most widths.
constexpr int64_t kJob = 128;
// What one tile costs besides its rows, in rows: reading it from memory.
constexpr int64_t kTileCost = 8;
constexpr int64_t kPiece = 512;  // columns of a sum

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Parts of a block of memory, each on a 64-byte line.
class Carver {
  public:
    explicit Carver(std::byte* data) : data_(data) {}
    template <class T>
    T* take(int64_t n) {
        T* p = data_ == nullptr ? nullptr : reinterpret_cast<T*>(data_ + used_);
        used_ += round_up(n * static_cast<int64_t>(sizeof(T)), 64);
        return p;
    }
    int64_t used() const { return used_; }

  private:
    std::byte* data_;
    int64_t used_ = 0;
};

struct Choice {
    int32_t expert;
    float weight;
};

// What all workers see.
struct Shared {
    Choice* choices;  // [rows][top_k], by expert
    float* inner;     // [pairs of a chunk][width]: activation(gate) * up
    float* upper;     // the same of up alone, where gate and up are apart
    float* outer;     // [pairs of a chunk][hidden]: down
    int64_t ld_inner, ld_outer;

    Shared(const MoeArgs& a, int64_t rows, Carver&& memory)
        : ld_inner(round_up(a.width, 16)), ld_outer(round_up(a.hidden, 16)) {
        const int64_t pairs = std::min(rows, kChunk) * a.top_k;
        choices = memory.take<Choice>(rows * a.top_k);
        inner = memory.take<float>(pairs * ld_inner);
        outer = memory.take<float>(pairs * ld_outer);
        upper = memory.take<float>(a.apart ? pairs * ld_inner : 0);
        bytes = memory.used();
    }
    int64_t bytes;
};

// What one worker has for itself. A pair is (row, one of its experts); pairs in their own order are sorted by expert.
struct Private {
    float* p;         // [experts]
    int64_t* start;   // [experts + 1] first sorted pair of each expert
    int32_t* row_of;  // [pairs of a chunk] row (in the chunk) of each sorted pair
    int32_t* place;   // [pairs of a chunk] sorted place of each pair
    float* rows;      // [kJob][hidden] rows of one expert, side by side
    std::byte* prepared;
    std::byte* scratch;
    int64_t scratch_bytes;

    Private(const MoeArgs& a, int64_t rows_at_most, Carver&& memory) {
        const int64_t chunk = std::min(rows_at_most, kChunk), pairs = chunk * a.top_k, job = std::min(chunk, kJob);
        p = memory.take<float>(a.experts);
        start = memory.take<int64_t>(a.experts + 1);
        row_of = memory.take<int32_t>(pairs);
        place = memory.take<int32_t>(pairs);
        rows = memory.take<float>(job * a.hidden);
        prepared = memory.take<std::byte>(job * a.prepared_bytes);
        scratch_bytes = a.scratch_bytes;
        scratch = memory.take<std::byte>(scratch_bytes);
        bytes = memory.used();
    }
    int64_t bytes;
};

void choose(const MoeArgs& a, const float* router, float* p, Choice* out) {
    const int64_t n = a.experts;
    const float peak = *std::max_element(router, router + n);
    float mass = 0;
    for (int64_t i = 0; i < n; i++) mass += p[i] = std::exp(router[i] - peak);
    for (int64_t i = 0; i < n; i++) p[i] /= mass;
    float sum = 0;
    for (int64_t j = 0; j < a.top_k; j++) {
        int64_t best = -1;
        for (int64_t i = 0; i < n; i++) {
            if (p[i] >= 0 && (best < 0 || p[i] > p[best])) best = i;
        }
        // A row with NaN chooses the first ones: its weights are NaN whatever they are.
        const int64_t expert = best < 0 ? j : best;
        out[j] = {static_cast<int32_t>(expert), p[expert]};
        sum += p[expert];
        if (best >= 0) p[best] = -1;
    }
    std::sort(out, out + a.top_k, [](const Choice& x, const Choice& y) { return x.expert < y.expert; });
    if (!a.renormalise) return;
    for (int64_t j = 0; j < a.top_k; j++) out[j].weight /= sum;
}

struct Moe {
    const Kernels& kernels;
    const MoeArgs& args;
    const Worker& worker;
    Shared shared;
    Private own;

    Moe(const Kernels& k, const MoeArgs& a, const Worker& w)
        : kernels(k), args(a), worker(w), shared(a, a.rows, Carver(a.shared)), own(a, a.rows, Carver(w.scratch)) {}

    void sort(const Choice* choices, int64_t rows) {
        const int64_t pairs = rows * args.top_k;
        std::fill(own.start, own.start + args.experts + 1, 0);
        for (int64_t i = 0; i < pairs; i++) own.start[choices[i].expert + 1]++;
        for (int64_t e = 0; e < args.experts; e++) own.start[e + 1] += own.start[e];
        for (int64_t i = 0; i < pairs; i++) {
            int64_t& next = own.start[choices[i].expert];
            own.row_of[next] = static_cast<int32_t>(i / args.top_k);
            own.place[i] = static_cast<int32_t>(next++);
        }
        for (int64_t e = args.experts; e > 0; e--) own.start[e] = own.start[e - 1];
        own.start[0] = 0;
    }

    // f(expert, first sorted pair, pairs) for all jobs, in order.
    template <class F>
    void jobs(F f) const {
        for (int64_t e = 0; e < args.experts; e++) {
            const int64_t from = own.start[e], n = own.start[e + 1] - from, parts = ceil_div(n, kJob);
            for (int64_t i = 0; i < parts; i++) f(e, from + n * i / parts, n * (i + 1) / parts - n * i / parts);
        }
    }

    // f(expert, first sorted pair, pairs, first tile, tiles) for this worker's share of the jobs of `tiles` tiles each.
    template <class F>
    void share(int64_t tiles, F f) const {
        const auto cost = [](int64_t n) { return kTileCost + n; };
        int64_t total = 0, before = 0, begin, end;
        jobs([&](int64_t, int64_t, int64_t n) { total += cost(n) * tiles; });
        worker.range(total, begin, end);
        jobs([&](int64_t e, int64_t from, int64_t n) {
            const auto tile = [&](int64_t at) { return std::clamp<int64_t>(ceil_div(at - before, cost(n)), 0, tiles); };
            const int64_t first = begin <= before ? 0 : tile(begin), last = end <= before ? 0 : tile(end);
            if (first < last) f(e, from, n, first, last - first);
            before += cost(n) * tiles;
        });
    }

    void run(const LinearArgs& a) const {
        const Worker alone{0, 1, own.scratch, static_cast<size_t>(own.scratch_bytes), [](void*) {}, nullptr};
        linear(kernels, a, alone);
    }

    LinearArgs call(Act act, Rows x, int64_t rows, int64_t k, int parts) const {
        LinearArgs a{};
        a.act = act;
        a.x = x;
        a.rows = rows;
        a.k = k;
        a.parts = parts;
        a.shared = own.prepared;
        return a;
    }

    void gate_up(Rows x, int64_t e, int64_t from, int64_t n, int64_t tile, int64_t tiles) const {
        Rows rows{x.data + own.row_of[from] * x.ld, x.ld};
        if (n > 1) {
            for (int64_t i = 0; i < n; i++) {
                std::memcpy(own.rows + i * args.hidden, x.data + own.row_of[from + i] * x.ld,
                            static_cast<size_t>(args.hidden) * sizeof(float));
            }
            rows = {own.rows, args.hidden};
        }
        const int64_t ld = shared.ld_inner, at = from * ld + tile * kTile;
        if (args.apart) return one_by_one(rows, e, n, at, tile, tiles);
        LinearArgs a = call(args.act, rows, n, args.hidden, 2);
        a.activation = args.activation;
        a.part[0] = {part_of(args.gate[e], tile, tiles), nullptr, shared.inner + at, ld};
        a.part[1] = {part_of(args.up[e], tile, tiles), nullptr, nullptr, 0};
        run(a);
    }

    void one_by_one(Rows rows, int64_t e, int64_t n, int64_t at, int64_t tile, int64_t tiles) const {
        const int64_t ld = shared.ld_inner, width = std::min(tiles * kTile, args.width - tile * kTile);
        LinearArgs gate = call(args.act, rows, n, args.hidden, 1);
        gate.part[0] = {part_of(args.gate[e], tile, tiles), nullptr, shared.inner + at, ld};
        run(gate);
        LinearArgs up = call(args.act_up, rows, n, args.hidden, 1);
        up.part[0] = {part_of(args.up[e], tile, tiles), nullptr, shared.upper + at, ld};
        run(up);
        for (int64_t i = 0; i < n; i++) {
            float* y = shared.inner + at + i * ld;
            kernels.finish_gated(args.activation, y, nullptr, shared.upper + at + i * ld, nullptr, y, width);
        }
    }

    void down(int64_t e, int64_t from, int64_t n, int64_t tile, int64_t tiles) const {
        const Rows rows{shared.inner + from * shared.ld_inner, shared.ld_inner};
        LinearArgs a = call(args.act_down, rows, n, args.width, 1);
        float* y = shared.outer + from * shared.ld_outer + tile * kTile;
        a.part[0] = {part_of(args.down[e], tile, tiles), nullptr, y, shared.ld_outer};
        run(a);
    }

    void sum(const Choice* choices, int64_t rows, float* y) const {
        const int64_t pieces = ceil_div(args.hidden, kPiece);
        int64_t begin, end;
        worker.range(rows * pieces, begin, end);
        for (int64_t i = begin; i < end; i++) {
            const int64_t row = i / pieces, column = i % pieces * kPiece, n = std::min(kPiece, args.hidden - column);
            float* to = y + row * args.ldy + column;
            std::fill(to, to + n, 0.0f);
            for (int64_t j = row * args.top_k; j < (row + 1) * args.top_k; j++) {
                const float* from = shared.outer + own.place[j] * shared.ld_outer + column;
                const float weight = choices[j].weight;
                for (int64_t c = 0; c < n; c++) to[c] += weight * from[c];
            }
        }
    }

    void chunk(int64_t first, int64_t rows) {
        const Choice* choices = shared.choices + first * args.top_k;
        const Rows x{args.x.data + first * args.x.ld, args.x.ld};
        sort(choices, rows);
        share(args.gate[0].tiles, [&](auto... job) { gate_up(x, job...); });
        worker.barrier();
        share(args.down[0].tiles, [&](auto... job) { down(job...); });
        worker.barrier();
        sum(choices, rows, args.y + first * args.ldy);
    }
};

}  // namespace

void moe(const Kernels& kernels, const MoeArgs& args, const Worker& worker) {
    if (args.rows == 0) return;
    Moe op(kernels, args, worker);
    int64_t begin, end;
    worker.range(args.rows, begin, end);
    for (int64_t row = begin; row < end; row++)
        choose(args, args.router.data + row * args.router.ld, op.own.p, op.shared.choices + row * args.top_k);
    worker.barrier();
    for (int64_t first = 0; first < args.rows; first += kChunk) op.chunk(first, std::min(kChunk, args.rows - first));
}

void measure_experts(MoeArgs& a) {
    a.prepared_bytes = a.scratch_bytes = 0;
    for (int64_t e = 0; e < a.experts; e++) {  // their inputs may be in an order, or not
        for (const auto& [m, act] :
             {std::pair{a.gate + e, a.act}, std::pair{a.up + e, a.act_up}, std::pair{a.down + e, a.act_down}}) {
            a.prepared_bytes = std::max(a.prepared_bytes, linear_shared_bytes(*m, act, 1));
            a.scratch_bytes = std::max(a.scratch_bytes, linear_scratch_bytes(*m, act));
        }
    }
}

int64_t moe_shared_bytes(const MoeArgs& args, int64_t rows) { return Shared(args, rows, Carver(nullptr)).bytes; }
int64_t moe_scratch_bytes(const MoeArgs& args, int64_t rows) { return Private(args, rows, Carver(nullptr)).bytes; }

}  // namespace penstock
