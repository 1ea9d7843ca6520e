// Which instruction set the kernels use: found once, at start, by asking the CPU.
//   generic   any CPU (the reference)
//   avx2      AVX2, FMA, F16C
//   avx512    AVX-512 F BW VL DQ VNNI BF16
//   amx       avx512 and AMX TILE INT8 BF16 (Linux)
#pragma once
#include <string>
#include <vector>

namespace penstock {

struct Kernels;  // kernels/table.h

struct IsaChoice {
    const Kernels* kernels = nullptr;  // null: `error` says what this CPU lacks and which names are possible
    std::string error;
};

// `name` is one of the above; empty or "auto" takes the environment's PENSTOCK_ISA, or else the best this CPU has.
IsaChoice resolve_isa(const std::string& name);

// The names that this CPU can run, best last.
std::vector<std::string> possible_isas();

// The name of a resolved table.
const char* isa_name(const Kernels&);

}  // namespace penstock
