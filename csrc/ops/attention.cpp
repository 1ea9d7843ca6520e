// attention: the work is a list of tasks (sequence, kv head, block of query tokens), each a list of partitions of the
// cache. Workers take equal stretches of that list. Where a task is cut between workers, its partitions' results go to
// shared memory and one worker joins them, in the order in which an uncut task joins its own.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/table.h"
#include "ops/ops.h"

namespace penstock {
namespace {

constexpr int64_t kTaskRows = 48;  // query rows of a task, unless one token has more heads to a kv head
constexpr int64_t kGroups = kPartition / 16;

int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t task_rows(int64_t group) { return std::max(group, kTaskRows / group * group); }

struct Task {
    int64_t seq, head;             // kv head
    int64_t token, tokens;         // first query token (in the batch), how many
    int64_t row;                   // cache row of the first
    int64_t first, last;           // partitions seen: first <= p < last
    int64_t seen_begin, seen_end;  // cache rows seen by any of its tokens
};

// What this task's partition p costs, in groups of cache rows times query rows.
int64_t cost(const Task& t, int64_t p) {
    const int64_t begin = std::max(t.seen_begin, p * kPartition) / 16;
    const int64_t end = ceil_div(std::min(t.seen_end, (p + 1) * kPartition), 16);
    return (end - begin + 4) * t.tokens;
}
int64_t cost(const Task& t) {
    return (ceil_div(t.seen_end, 16) - t.seen_begin / 16 + 4 * (t.last - t.first)) * t.tokens;
}

struct Attention {
    const Kernels& kernels;
    const AttentionArgs& a;
    const Worker& worker;
    int64_t group, block_tokens, rows, width;  // query heads of a kv head; a task's tokens and rows; padded head_dim
    int64_t total = 0;
    // private scratch
    float *q, *sums, *part, *scores, *distance, *slopes;
    float *peaks, *masses;

    Attention(const Kernels& k, const AttentionArgs& args, const Worker& w)
        : kernels(k),
          a(args),
          worker(w),
          group(args.heads / args.kv_heads),
          block_tokens(task_rows(group) / group),
          rows(task_rows(group)),
          width(padded(args.head_dim)) {
        float* at = reinterpret_cast<float*>(w.scratch);
        const auto take = [&](int64_t n) { return std::exchange(at, at + padded(n)); };
        q = take(rows * width);
        sums = take(rows * width);
        part = take(kRowsLimit * width);
        scores = take(kRowsLimit * kStepRows);
        peaks = take(rows);
        masses = take(rows);
        distance = take(kRowsLimit);
        slopes = take(kRowsLimit);
    }

    // The cache rows that the query at cache row `row` of sequence s sees.
    int64_t seen_end(int64_t s, int64_t row) const {
        const int64_t boundary = a.bidirectional != nullptr ? a.bidirectional[s] : 0;
        return std::min<int64_t>(std::max(row + 1, row < boundary ? boundary : 0), a.context_lens[s]);
    }
    int64_t seen_begin(int64_t row) const { return a.window > 0 ? std::max<int64_t>(0, row + 1 - a.window) : 0; }

    // Calls f(task) for all tasks, in one order for all workers.
    template <class Function>
    void tasks(Function f) const {
        for (int64_t s = 0; s < a.seqs; s++) {
            const int64_t begin = a.query_start[s], end = a.query_start[s + 1];
            for (int64_t head = 0; head < a.kv_heads; head++) {
                for (int64_t token = begin; token < end; token += block_tokens) {
                    Task t;
                    t.seq = s;
                    t.head = head;
                    t.token = token;
                    t.tokens = std::min(block_tokens, end - token);
                    t.row = a.context_lens[s] - (end - token);
                    t.seen_begin = seen_begin(t.row);
                    t.seen_end = std::max(seen_end(s, t.row), seen_end(s, t.row + t.tokens - 1));
                    t.first = t.seen_begin / kPartition;
                    t.last = ceil_div(t.seen_end, kPartition);
                    f(t);
                }
            }
        }
    }

    // Which worker a piece of work belongs to: the one in whose stretch its middle lies.
    int owner(int64_t before, int64_t size) const {
        return static_cast<int>((2 * before + size) * worker.count / (2 * total));
    }

    int64_t slot_floats() const { return rows * (width + 2); }
    float* slot(int64_t cut, const Task& t, int64_t p, int64_t longest) const {
        return reinterpret_cast<float*>(a.shared) + (cut * longest + p - t.first) * slot_floats();
    }

    void run() {
        int64_t longest = 0;
        tasks([&](const Task& t) {
            total += cost(t);
            longest = std::max(longest, t.last - t.first);
        });
        int64_t before = 0, cuts = 0;
        tasks([&](const Task& t) {
            const int64_t size = cost(t), start = before;
            before += size;
            if (t.last - t.first == 1) {
                if (owner(start, size) == worker.id) whole(t);
                return;
            }
            const int64_t head = cost(t, t.first), tail = cost(t, t.last - 1);
            const int from = owner(start, head), to = owner(start + size - tail, tail);
            if (from == to) {
                if (from == worker.id) whole(t);
                return;
            }
            if (from <= worker.id && worker.id <= to) partly(t, start, cuts, longest);
            cuts++;
        });
        if (cuts == 0) return;
        worker.barrier();
        before = cuts = 0;
        tasks([&](const Task& t) {
            const int64_t size = cost(t), start = before;
            before += size;
            if (t.last - t.first == 1) return;
            const int64_t head = cost(t, t.first), tail = cost(t, t.last - 1);
            if (owner(start, head) == owner(start + size - tail, tail)) return;
            if (cuts % worker.count == worker.id) join(t, cuts, longest);
            cuts++;
        });
    }

    // A task's rows in panels, as in linear.
    int64_t panels(const Task& t) const { return ceil_div(t.tokens * group, kernels.attend_rows); }
    int64_t panel_begin(const Task& t, int64_t p) const { return t.tokens * group * p / panels(t); }

    void fill_q(const Task& t) const {
        for (int64_t p = 0; p < panels(t); p++) {
            const int64_t begin = panel_begin(t, p), count = panel_begin(t, p + 1) - begin;
            for (int64_t r = begin; r < begin + count; r++) {
                const int64_t token = t.token + r / group, head = t.head * group + r % group;
                float scale = a.scale;
                if (a.log_n > 0 && a.positions[token] >= a.log_n)
                    scale *=
                        static_cast<float>(std::log(a.positions[token] + 1.0) / std::log(static_cast<double>(a.log_n)));
                const float* x = a.q.data + token * a.q.ld + head * a.head_dim;
                float* to = q + begin * width + (r - begin);
                for (int64_t d = 0; d < a.head_dim; d++) to[d * count] = x[d] * scale;
            }
        }
    }

    // All panels of a task over partition p: y [rows][width], peak, mass.
    template <class Function>
    void partition(const Task& t, int64_t p, Function done) const {
        const std::byte *keys[kGroups + kStepRows / 16], *values[kGroups + kStepRows / 16];
        const int64_t base = p * kPartition, block_size = a.cache.block_size;
        const int64_t group_bytes = a.head_dim * 16 * (a.cache.type == KVType::f32 ? 4 : 2);
        const int64_t left = ceil_div(t.seen_end - base, 16), known = std::min(kGroups + kStepRows / 16, left);
        const int32_t* table = a.block_tables + t.seq * a.table_ld;
        for (int64_t g = std::max<int64_t>(0, (t.seen_begin - base) / kStepRows * (kStepRows / 16)); g < known; g++) {
            const int64_t row = base + g * 16;
            const int64_t at = table[row / block_size] * a.cache.block_bytes + t.head * a.cache.head_bytes +
                               row % block_size / 16 * group_bytes;
            keys[g] = a.cache.keys + at;
            values[g] = a.cache.values + at;
        }
        for (int64_t panel = 0; panel < panels(t); panel++) {
            const int64_t begin = panel_begin(t, panel), count = panel_begin(t, panel + 1) - begin;
            int32_t from[kRowsLimit], to[kRowsLimit];
            float peak[kRowsLimit], mass[kRowsLimit];
            for (int64_t i = 0; i < count; i++) {
                const int64_t row = t.row + (begin + i) / group;
                from[i] = static_cast<int32_t>(std::clamp<int64_t>(seen_begin(row) - base, 0, kPartition));
                to[i] = static_cast<int32_t>(std::clamp<int64_t>(seen_end(t.seq, row) - base, 0, kPartition));
                distance[i] = static_cast<float>(base - row);
                if (a.alibi != nullptr) slopes[i] = a.alibi[t.head * group + (begin + i) % group];
            }
            AttendBlock b;
            b.head_dim = a.head_dim;
            b.rows = static_cast<int>(count);
            b.q = q + begin * width;
            b.groups = static_cast<int>(std::min(kGroups, left));
            b.known = static_cast<int>(known);
            b.keys = keys;
            b.values = values;
            b.begin = from;
            b.end = to;
            b.softcap = a.softcap;
            b.ahead = panel == 0;
            b.slopes = a.alibi != nullptr ? slopes : nullptr;
            b.distance = distance;
            b.scores = scores;
            b.y = part;
            b.ldy = width;
            b.peak = peak;
            b.mass = mass;
            kernels.attend[static_cast<int>(a.cache.type)](b);
            for (int64_t i = 0; i < count; i++) done(begin + i, part + i * width, peak[i], mass[i]);
        }
    }

    void start(const Task& t) const {
        std::fill(peaks, peaks + t.tokens * group, -std::numeric_limits<float>::infinity());
        std::fill(masses, masses + t.tokens * group, 0.0f);
    }
    void add(int64_t r, const float* y, float peak, float mass) const {
        kernels.merge(sums + r * width, peaks + r, masses + r, y, peak, mass, a.head_dim);
    }
    void finish(const Task& t) const {
        for (int64_t r = 0; r < t.tokens * group; r++) {
            float* y = a.y + (t.token + r / group) * a.ldy + (t.head * group + r % group) * a.head_dim;
            kernels.divide(sums + r * width, masses[r], y, a.head_dim);
        }
    }

    void whole(const Task& t) const {
        fill_q(t);
        start(t);
        for (int64_t p = t.first; p < t.last; p++)
            partition(t, p, [&](int64_t r, const float* y, float peak, float mass) { add(r, y, peak, mass); });
        finish(t);
    }

    // This worker's partitions of a cut task, to shared memory.
    void partly(const Task& t, int64_t before, int64_t cut, int64_t longest) const {
        fill_q(t);
        for (int64_t p = t.first; p < t.last; p++) {
            const int64_t size = cost(t, p);
            if (owner(before, size) == worker.id) {
                float* to = slot(cut, t, p, longest);
                partition(t, p, [&](int64_t r, const float* y, float peak, float mass) {
                    std::copy(y, y + a.head_dim, to + r * (width + 2));
                    to[r * (width + 2) + width] = peak;
                    to[r * (width + 2) + width + 1] = mass;
                });
            }
            before += size;
        }
    }

    void join(const Task& t, int64_t cut, int64_t longest) const {
        start(t);
        for (int64_t p = t.first; p < t.last; p++) {
            const float* from = slot(cut, t, p, longest);
            for (int64_t r = 0; r < t.tokens * group; r++, from += width + 2)
                add(r, from, from[width], from[width + 1]);
        }
        finish(t);
    }
};

}  // namespace

void attention(const Kernels& kernels, const AttentionArgs& args, const Worker& worker) {
    if (args.seqs > 0) Attention(kernels, args, worker).run();
}

int64_t attention_scratch_bytes(int64_t heads, int64_t kv_heads, int64_t head_dim) {
    const int64_t rows = task_rows(heads / kv_heads), width = padded(head_dim);
    return 4 * (2 * padded(rows * width) + kRowsLimit * (width + kStepRows) + 2 * padded(rows) + 2 * kRowsLimit);
}

int64_t attention_shared_bytes(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t max_context, int workers) {
    const int64_t partitions = ceil_div(max_context, kPartition);
    if (workers < 2 || partitions < 2) return 0;
    return 4 * (workers - 1) * partitions * task_rows(heads / kv_heads) * (padded(head_dim) + 2);
}

}  // namespace penstock
