// The parts of the Python module.
#pragma once
#include <nanobind/nanobind.h>

namespace penstock {

void bind_executor(nanobind::module_& m);
void bind_plan(nanobind::module_& m);
void bind_sampler(nanobind::module_& m);
void bind_probe(nanobind::module_& m);
void bind_formats(nanobind::module_& m);

}  // namespace penstock
