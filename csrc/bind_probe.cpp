#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

#include "bind.h"
#include "cpus.h"
#include "isa.h"
#include "probe.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace penstock {

void bind_probe(nb::module_& m) {
    m.def(
        "probe",
        [](int threads, double seconds, const std::string& isa) {
            const IsaChoice choice = resolve_isa(isa);
            if (choice.kernels == nullptr) throw nb::value_error(choice.error.c_str());
            if (threads < 0 || threads > 1024) throw nb::value_error("threads must be from 0 (all cores) to 1024");
            if (!(seconds > 0 && seconds <= 60)) throw nb::value_error("seconds must be above 0, at most 60");
            ProbeResult r;
            int count;
            {
                nb::gil_scoped_release release;
                Team team(threads > 0 ? threads : default_threads());
                count = team.count();
                r = probe(isa_name(*choice.kernels), team, seconds);
            }
            nb::dict d;
            d["isa"] = isa_name(*choice.kernels);
            d["threads"] = count;
            d["read_gbs"] = r.read_gbs;
            d["read_usual_gbs"] = r.read_usual_gbs;
            d["read_plain_gbs"] = r.read_plain_gbs;
            d["f32_gflops"] = r.f32_gflops;
            d["bf16_gflops"] = r.bf16_gflops;
            d["int8_gops"] = r.int8_gops;
            return d;
        },
        "threads"_a = 0, "seconds"_a = 0.3, "isa"_a = "",
        "Measured limits: read bandwidth (GB/s; the best and the middle run in 2 MB pages where the system gives them, "
        "the best in plain ones) and peak of f32, bf16 (GFLOP/s) and int8 (Gop/s; 0: no such instruction).");
}

}  // namespace penstock
