// The sampler alone, so that its meaning can be compared with executors/sampling.py on any logits.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <string>

#include "bind.h"
#include "bind_batch.h"
#include "isa.h"
#include "memory.h"
#include "sampler.h"
#include "team.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace penstock {

void bind_sampler(nb::module_& m) {
    using Logits = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
    m.def(
        "sample",
        [](const Logits& logits, nb::handle sampling, nb::handle output, const std::string& isa, int threads) {
            const IsaChoice choice = resolve_isa(isa);
            if (choice.kernels == nullptr) throw nb::value_error(choice.error.c_str());
            if (threads < 1 || threads > 1024) throw nb::value_error("threads must be from 1 to 1024");
            Arrays arrays;
            const SamplingBatch batch = read_sampling(arrays, sampling);
            const SampleOutput out = read_sample_output(output, batch.size());
            const auto rows = static_cast<int64_t>(logits.shape(0)), vocab = static_cast<int64_t>(logits.shape(1));
            check_sampling(batch, rows, vocab, out);
            const int64_t bytes = (sampler_scratch_bytes(vocab) + 127) / 128 * 128;
            const Region scratch(bytes * threads, Pages::small, "scratch");
            const float* data = logits.data();
            nb::gil_scoped_release release;
            Team team(threads);
            team.run(scratch.data(), bytes, [&](const Worker& w) {
                sample(sampler_math(isa_name(*choice.kernels)), batch, data, vocab, vocab, out, w);
            });
        },
        "logits"_a, "sampling"_a, "output"_a, "isa"_a = "", "threads"_a = 1,
        "Fill a StepOutput from logits [rows, vocab] and a SamplingBatch, as the end of a step does.");
}

}  // namespace penstock
