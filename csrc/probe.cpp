#include "probe.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string_view>
#include <vector>

#include "memory.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

const PeakKernels& kernels_for(std::string_view isa) {
#if defined(__x86_64__)
    if (isa == "amx") return kPeakAmx;
    if (isa == "avx512") return kPeakAvx512;
    if (isa == "avx2") return kPeakAvx2;
#endif
    (void)isa;
    return kPeakGeneric;
}

// Best rate of several runs of all threads at once: the machine's limit, not its mood.
double peak(Team& team, double (*kernel)(int64_t), double seconds) {
    if (kernel == nullptr) return 0;
    int64_t rounds = 1 << 14;
    double best = 0;
    const auto start = Clock::now();
    do {
        std::vector<double> ops(team.count());
        const auto begin = Clock::now();
        team.run([&](const Worker& w) { ops[w.id] = kernel(rounds); });
        const double took = seconds_since(begin);
        double sum = 0;
        for (const double o : ops) sum += o;
        best = std::max(best, sum / took);
        if (took < 5e-3) rounds *= 2;
    } while (seconds_since(start) < seconds);
    return best / 1e9;
}

struct Rate {
    double best, usual;
};

Rate read_bandwidth(Team& team, uint64_t (*read)(const std::byte*, int64_t), Pages pages, double seconds) {
    const Region memory(int64_t{256} << 20, pages, "the bandwidth probe");
#if defined(__linux__) && defined(MADV_NOHUGEPAGE)
    if (pages == Pages::small) madvise(memory.data(), static_cast<size_t>(memory.bytes()), MADV_NOHUGEPAGE);
#endif
    const auto share = [&](const Worker& w, int64_t& begin, int64_t& end) {
        w.range(memory.bytes() / 4096, begin, end);
        begin *= 4096, end *= 4096;
    };
    team.run([&](const Worker& w) {
        int64_t begin, end;
        share(w, begin, end);
        std::memset(memory.data() + begin, 1, end - begin);
    });
    std::vector<uint64_t> sums(team.count() * 16);
    std::vector<double> rates;
    const auto start = Clock::now();
    do {
        const auto begin_time = Clock::now();
        team.run([&](const Worker& w) {
            int64_t begin, end;
            share(w, begin, end);
            sums[w.id * 16] += read(memory.data() + begin, end - begin);
        });
        rates.push_back(1e-9 * static_cast<double>(memory.bytes()) / seconds_since(begin_time));
    } while (seconds_since(start) < seconds);
    volatile uint64_t keep = sums[0];
    (void)keep;
    std::sort(rates.begin(), rates.end());
    return {rates.back(), rates[rates.size() / 2]};
}

}  // namespace

ProbeResult probe(const char* isa, Team& team, double seconds) {
    const PeakKernels& k = kernels_for(isa);
    ProbeResult result;
    const Rate huge = read_bandwidth(team, k.read, Pages::huge, seconds);
    result.read_gbs = huge.best;
    result.read_usual_gbs = huge.usual;
    result.read_plain_gbs = read_bandwidth(team, k.read, Pages::small, seconds).best;
    result.f32_gflops = peak(team, k.f32, seconds);
    result.bf16_gflops = peak(team, k.bf16, seconds);
    result.int8_gops = peak(team, k.int8, seconds);
    return result;
}

}  // namespace penstock
