#include "isa.h"

#include <cstdlib>

#include "kernels/table.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace penstock {
namespace {

struct Candidate {
    const char* name;
    const Kernels& (*table)();
    std::string (*lacking)();  // what the CPU would need, empty if it has all
};

#if defined(__x86_64__)
#define PENSTOCK_NEED(feature) \
    if (!__builtin_cpu_supports(feature)) lacks += (lacks.empty() ? "" : ", ") + std::string(feature)

std::string lacking_avx2() {
    std::string lacks;
    __builtin_cpu_init();
    PENSTOCK_NEED("avx2");
    PENSTOCK_NEED("fma");
    PENSTOCK_NEED("f16c");
    return lacks;
}

std::string lacking_avx512() {
    std::string lacks = lacking_avx2();
    PENSTOCK_NEED("avx512f");
    PENSTOCK_NEED("avx512bw");
    PENSTOCK_NEED("avx512vl");
    PENSTOCK_NEED("avx512dq");
    PENSTOCK_NEED("avx512vnni");
    PENSTOCK_NEED("avx512bf16");
    return lacks;
}

// The system keeps eight kilobytes of tiles for each thread of a process that has asked for them, once and for all.
bool tiles_are_granted() {
#if defined(__linux__)
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool granted = syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
    return granted;
#else
    return false;
#endif
}

std::string lacking_amx() {
    std::string lacks = lacking_avx512();
    PENSTOCK_NEED("amx-tile");
    PENSTOCK_NEED("amx-int8");
    PENSTOCK_NEED("amx-bf16");
    if (lacks.empty() && !tiles_are_granted()) lacks = "the system's leave to use amx-tile";
    return lacks;
}
#endif

std::string nothing() { return {}; }

const Candidate kCandidates[] = {
    {"generic", generic_kernels, nothing},
#if defined(__x86_64__)
    {"avx2", avx2_kernels, lacking_avx2},
    {"avx512", avx512_kernels, lacking_avx512},
    {"amx", amx_kernels, lacking_amx},
#endif
};

}  // namespace

std::vector<std::string> possible_isas() {
    std::vector<std::string> names;
    for (const Candidate& c : kCandidates)
        if (c.lacking().empty()) names.push_back(c.name);
    return names;
}

IsaChoice resolve_isa(const std::string& name) {
    std::string want = name, source;
    if (want.empty() || want == "auto") {
        const char* environment = std::getenv("PENSTOCK_ISA");
        want = environment != nullptr ? environment : "";
        source = "PENSTOCK_ISA=";
    }
    const std::vector<std::string> possible = possible_isas();
    if (want.empty() || want == "auto") want = possible.back();
    std::string choices;
    for (const std::string& p : possible) choices += (choices.empty() ? "" : ", ") + p;
    for (const Candidate& c : kCandidates) {
        if (want != c.name) continue;
        const std::string lacks = c.lacking();
        if (lacks.empty()) return {&c.table(), {}};
        return {nullptr, source + want + ": this CPU lacks " + lacks + "; possible here: " + choices};
    }
    return {nullptr, source + want + ": no such instruction set; possible here: " + choices};
}

const char* isa_name(const Kernels& kernels) { return kernels.name; }

}  // namespace penstock
