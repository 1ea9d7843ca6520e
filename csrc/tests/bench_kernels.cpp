// How fast linear and attention are, beside what the machine allows, probed in the same run.
//   bench_kernels            a glance (small, under two seconds)
//   bench_kernels full [n]   matrices larger than the caches, on n threads (default: all)
//   bench_kernels full n NAME [block size [turns]]   the lines whose name has NAME in it
// Best of many short calls, the kinds interleaved, since other processes take their share of a machine.
#if defined(__x86_64__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 warns of its own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#endif
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "support.h"

using namespace penstock;
using namespace penstock::test;

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Threads that stay, and a barrier that spins: what the executor's team is, in a few lines.
class SpinTeam {
  public:
    explicit SpinTeam(int n) : count_(n) {
        for (int i = 0; i < n; i++) scratch_.emplace_back(kScratch);
        for (int i = 1; i < n; i++) threads_.emplace_back([this, i] { loop(i); });
    }
    ~SpinTeam() {
        job_ = nullptr;
        meet(this);
        for (std::thread& t : threads_) t.join();
    }
    double run(const std::function<void(const Worker&)>& job) {
        job_ = &job;
        const double start = now();
        meet(this);
        job(worker(0));
        meet(this);
        return now() - start;
    }
    int count() const { return count_; }

  private:
    void loop(int id) {
        for (;;) {
            meet(this);
            if (job_ == nullptr) return;
            (*job_)(worker(id));
            meet(this);
        }
    }
    Worker worker(int id) { return {id, count_, scratch_[static_cast<size_t>(id)].data(), kScratch, meet, this}; }
    static void meet(void* self) {
        SpinTeam& t = *static_cast<SpinTeam*>(self);
        const int round = t.round_.load();
        if (t.arrived_.fetch_add(1) + 1 == t.count_) {
            t.arrived_.store(0);
            t.round_.store(round + 1);
            return;
        }
        for (int spins = 0; t.round_.load() == round; spins++)
            if (spins > 20000) std::this_thread::yield();
    }
    static constexpr int64_t kScratch = 8 << 20;
    int count_;
    const std::function<void(const Worker&)>* job_ = nullptr;
    std::vector<Buffer<std::byte>> scratch_;
    std::vector<std::thread> threads_;
    std::atomic<int> round_{0}, arrived_{0};
};

// Memory with huge pages where the system gives them.
struct Pages {
    static constexpr int64_t kHuge = 2 << 20;
    std::byte *map, *data;
    int64_t size;
    explicit Pages(int64_t n) : size((n + kHuge - 1) / kHuge * kHuge) {
        map = static_cast<std::byte*>(mmap(nullptr, static_cast<size_t>(size + kHuge), PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        data = map + (kHuge - static_cast<int64_t>(reinterpret_cast<uintptr_t>(map) % kHuge));
        madvise(data, static_cast<size_t>(size), MADV_HUGEPAGE);
        std::memset(data, 0, static_cast<size_t>(size));
    }
    ~Pages() { munmap(map, static_cast<size_t>(size + kHuge)); }
};

#if defined(__x86_64__)
__attribute__((target("avx512f"))) int64_t read_all_512(const std::byte* p, int64_t n) {
    __m512i s[4] = {};
    for (int64_t i = 0; i + 256 <= n; i += 256)
        for (int j = 0; j < 4; j++) s[j] = _mm512_add_epi64(s[j], _mm512_loadu_si512(p + i + 64 * j));
    return _mm512_reduce_add_epi64(_mm512_add_epi64(_mm512_add_epi64(s[0], s[1]), _mm512_add_epi64(s[2], s[3])));
}
__attribute__((target("avx512f"))) float fma_512(int64_t n) {
    __m512 s[12], a = _mm512_set1_ps(1e-9f);
    for (auto& x : s) x = a;
    for (int64_t i = 0; i < n; i++)
#pragma GCC unroll 12
        for (auto& x : s) x = _mm512_fmadd_ps(x, a, a);
    float r = 0;
    for (auto& x : s) r += _mm512_reduce_add_ps(x);
    return r;
}
__attribute__((target("avx512f,avx512bf16"))) float dot_512(int64_t n) {
    __m512 s[12];
    const __m512bh a = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x30003000));
    for (auto& x : s) x = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i++)
#pragma GCC unroll 12
        for (auto& x : s) x = _mm512_dpbf16_ps(x, a, a);
    float r = 0;
    for (auto& x : s) r += _mm512_reduce_add_ps(x);
    return r;
}
#endif

struct Limits {
    double read = 0, fma = 0, dot = 0;  // GB/s, GFLOP/s
};
volatile double sink;

void probe(SpinTeam& team, const Pages& pages, Limits& best) {
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx512bf16")) return;
    for (int64_t piece = 0; piece < 8; piece++) {
        const double read = team.run([&](const Worker& w) {
            int64_t begin, end;
            w.range(pages.size / 8 / 4096, begin, end);
            sink = static_cast<double>(
                read_all_512(pages.data + pages.size / 8 * piece + begin * 4096, (end - begin) * 4096));
        });
        best.read = std::max(best.read, static_cast<double>(pages.size / 8) / read * 1e-9);
    }
    constexpr int64_t kTurns = 1 << 18;
    const double fma = team.run([&](const Worker&) { sink = fma_512(kTurns); });
    const double dot = team.run([&](const Worker&) { sink = dot_512(kTurns); });
    best.fma = std::max(best.fma, 32e-9 * 12 * kTurns * team.count() / fma);
    best.dot = std::max(best.dot, 64e-9 * 12 * kTurns * team.count() / dot);
#else
    (void)team, (void)pages, (void)best;
#endif
}

struct Line {
    std::string name;
    double bytes, flops;
    bool dot;        // its limit is that of bf16 dot products
    int64_t layers;  // calls go round so many pieces of memory, so that none is in a cache
    std::function<void(const Worker&, int64_t layer)> op;
    double seconds = 1e9;
};

class Bench {
  public:
    Bench(const Kernels& kernels, int threads, bool full, std::string only, int64_t block, int turns)
        : kernels_(kernels),
          team_(threads),
          full_(full),
          only_(std::move(only)),
          block_(block),
          turns_(turns),
          x_(random_floats(kRows * kInputs, 1)),
          y_(kRows * kOutputs),
          shared_(64 << 20),
          table_(static_cast<size_t>(kSeqs * kContext / block)) {
        for (size_t i = 0; i < table_.size(); i++) table_[i] = static_cast<int32_t>(i);
    }

    void add_linear(Format format, Act act, const std::string& name) {
        const int64_t n = full_ ? kOutputs : 256, k = full_ ? kInputs : 256, layers = full_ ? 8 : 1;
        const int64_t tile = tile_bytes(format, k), bytes = matrix_bytes(format, n, k);
        const std::byte* data = pages(bytes * layers);
        for (int64_t m :
             full_ ? std::vector<int64_t>{1, 2, 3, 4, 6, 8, 12, 16, 32, 128, 512} : std::vector<int64_t>{1, 16}) {
            const int64_t columns = m < 32 ? n : n / 8;  // short calls: other processes interrupt long ones
            const std::string line = name + " rows " + std::to_string(m);
            if (line.find(only_) == std::string::npos) continue;
            lines_.push_back({line, static_cast<double>(columns / 16 * tile),
                              2.0 * static_cast<double>(m * columns * k), act == Act::bf16, layers,
                              [=, this](const Worker& w, int64_t layer) {
                                  LinearArgs a{};
                                  a.act = act;
                                  a.x = {x_.data(), k};
                                  a.rows = m;
                                  a.k = k;
                                  a.parts = 1;
                                  const Matrix weight{format, columns, k, columns / 16, tile, data + bytes * layer};
                                  a.part[0] = {weight, nullptr, y_.data(), columns};
                                  a.shared = shared_.data();
                                  linear(kernels_, a, w);
                              }});
        }
    }

    struct Shape {
        KVType type;
        const char* name;
        int64_t dim, context;                 // 0: a prompt
        int64_t group = 4, kv = 8, seqs = 1;  // query heads of a kv head
        bool chunk = false;                   // the last part of a prompt, not one token
    };
    // One token of each sequence over its cache, or a prompt, or a prompt's last part.
    void add_attention(Shape s) {
        const bool decode = s.context > 0 && !s.chunk;
        if (!decode) s.kv = 2;
        if (!full_ || s.context == 0) s.context = full_ ? 512 : 64;
        const int64_t queries = decode ? 1 : std::min(s.context, kRows);
        const int64_t heads = s.group * s.kv, rows = s.seqs * s.context;
        const bool cached = s.context == kCached;
        const int64_t layers = !full_   ? 1
                               : cached ? 16
                                        : std::max<int64_t>(2, (int64_t{96} << 20) / (2 * rows * s.dim * s.kv * 2));
        const int64_t head_bytes = block_ / 16 * kv_group_bytes(s.type, s.dim),
                      layer_bytes = (rows + block_ - 1) / block_ * s.kv * head_bytes;
        const int64_t seen = decode ? rows : queries * (s.context - queries / 2);
        const double pairs = static_cast<double>(seen * heads * s.dim);
        const std::string name = std::string("attention ") + s.name + " " + std::to_string(s.dim) +
                                 (s.group != 4 ? " gqa " + std::to_string(s.group) : "") +
                                 (s.seqs > 1 ? " x " + std::to_string(s.seqs) : "") +
                                 (decode    ? " decode " + std::to_string(s.context)
                                  : s.chunk ? " prefill, last of " + std::to_string(s.context)
                                            : " prefill");
        if (name.find(only_) == std::string::npos) return;
        std::byte *keys = pages(layer_bytes * layers), *values = pages(layer_bytes * layers);
        lines_.push_back({name, 2.0 * static_cast<double>(layer_bytes), 4 * pairs, s.type == KVType::bf16, layers,
                          [=, this](const Worker& w, int64_t layer) {
                              int32_t start[kSeqs + 1], lens[kSeqs];
                              for (int32_t i = 0; i <= s.seqs; i++) start[i] = i * static_cast<int32_t>(queries);
                              std::fill(lens, lens + s.seqs, static_cast<int32_t>(s.context));
                              AttentionArgs a{};
                              a.seqs = s.seqs;
                              a.heads = heads;
                              a.kv_heads = s.kv;
                              a.head_dim = s.dim;
                              a.query_start = start;
                              a.context_lens = lens;
                              a.block_tables = table_.data();
                              a.table_ld = s.context / block_;
                              a.scale = 0.125f;  // the cache holds zeros
                              a.q = {x_.data(), heads * s.dim};
                              const int64_t at = cached ? 0 : layer * layer_bytes;
                              a.cache = {s.type,    s.kv,        s.dim,      block_,
                                         keys + at, values + at, head_bytes, s.kv * head_bytes};
                              a.y = y_.data();
                              a.ldy = heads * s.dim;
                              a.shared = shared_.data();
                              attention(kernels_, a, w);
                          }});
    }

    void run() {
        Limits best;
        Pages probed(full_ ? 512 << 20 : 4 << 20);
        for (int turn = 0; turn < turns_; turn++) {
            probe(team_, probed, best);
            for (Line& line : lines_)
                for (int64_t layer = 0; layer < line.layers; layer++)
                    line.seconds = std::min(line.seconds, team_.run([&](const Worker& w) { line.op(w, layer); }));
        }
        std::printf("%s, %d threads; probe: read %.1f GB/s, fma %.0f GFLOP/s, bf16 dot %.0f GFLOP/s\n", kernels_.name,
                    team_.count(), best.read, best.fma, best.dot);
        for (const Line& line : lines_) {
            const double bytes = line.bytes / line.seconds * 1e-9, flops = line.flops / line.seconds * 1e-9;
            std::printf("%-30s %9.3f ms %7.1f GB/s (%3.0f %%) %8.1f GFLOP/s (%3.0f %%)\n", line.name.c_str(),
                        line.seconds * 1e3, bytes, 100 * bytes / best.read, flops,
                        100 * flops / (line.dot ? best.dot : best.fma));
        }
    }

  private:
    static constexpr int64_t kOutputs = 8192, kInputs = 2048, kRows = 512, kContext = 32768, kSeqs = 8;
    static constexpr int64_t kCached = 256;  // a context whose keys and values stay in the second-level cache

    std::byte* pages(int64_t bytes) {
        memory_.push_back(std::make_unique<Pages>(bytes));
        return memory_.back()->data;
    }

    const Kernels& kernels_;
    SpinTeam team_;
    bool full_;
    std::string only_;
    int64_t block_;
    int turns_;
    Buffer<float> x_, y_;
    Buffer<std::byte> shared_;
    std::vector<int32_t> table_;
    std::vector<std::unique_ptr<Pages>> memory_;
    std::vector<Line> lines_;
};

}  // namespace

int main(int argc, char** argv) {
    const bool full = argc > 1 && std::string(argv[1]) == "full";
    const int all = static_cast<int>(std::thread::hardware_concurrency());
    const IsaChoice choice = resolve_isa("");
    CHECK(choice.kernels != nullptr, "%s", choice.error.c_str());
    Bench bench(*choice.kernels,
                argc > 2 ? std::atoi(argv[2])
                : full   ? all
                         : 1,
                full, argc > 3 ? argv[3] : "", argc > 4 ? std::atoi(argv[4]) : 32,
                argc > 5 ? std::atoi(argv[5])
                : full   ? 15
                         : 2);
    bench.add_linear(Format::bf16, Act::bf16, "bf16 x bf16");
    bench.add_linear(Format::bf16, Act::f32, "bf16 x f32");
    bench.add_linear(Format::f16, Act::f32, "f16 x f32");
    bench.add_linear(Format::f32, Act::f32, "f32 x f32");
    for (int64_t context : {256, 1024, 8192, 32768, 0}) {
        for (int64_t dim : {64, 128, 256}) bench.add_attention({KVType::bf16, "bf16", dim, context});
        for (int64_t dim : {64, 128}) bench.add_attention({KVType::i8, "i8", dim, context});
        bench.add_attention({KVType::f16, "f16", 64, context});
        bench.add_attention({KVType::f32, "f32", 64, context});
    }
    for (int64_t dim : {64, 128}) {
        for (int64_t group : {1, 8}) bench.add_attention({KVType::bf16, "bf16", dim, 8192, group});
        bench.add_attention({KVType::bf16, "bf16", dim, 1024, 4, 8, 8});
        bench.add_attention({KVType::bf16, "bf16", dim, 8192, 4, 8, 1, true});
    }
    bench.run();
    return 0;
}
