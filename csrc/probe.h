// What the machine gives at most, measured: the yardstick of benchmarks.
#pragma once
#include <cstdint>

#include "team.h"

namespace penstock {

struct ProbeResult {
    double read_gbs = 0;        // GB/s, all threads reading in order, in 2 MB pages where the system gives them
    double read_usual_gbs = 0;  // the middle of the runs of which that is the best
    double read_plain_gbs = 0;  // the best in pages of the usual size
    double f32_gflops = 0;      // multiply and add count as two; 0 where the instruction set has no such dot product
    double bf16_gflops = 0;
    double int8_gops = 0;
};

// A peak kernel keeps `rounds` x kProbeOps dot instructions going in registers; returns operations done (2 a product).
struct PeakKernels {
    double (*f32)(int64_t rounds);
    double (*bf16)(int64_t rounds);  // null: none
    double (*int8)(int64_t rounds);  // null: none
    uint64_t (*read)(const std::byte* data, int64_t bytes);
};
extern const PeakKernels kPeakGeneric;
#if defined(__x86_64__)
extern const PeakKernels kPeakAvx2;
extern const PeakKernels kPeakAvx512;
extern const PeakKernels kPeakAmx;
#endif

// Takes about `seconds` for each of the figures and 256 MB while it runs.
ProbeResult probe(const char* isa, Team& team, double seconds);

}  // namespace penstock
