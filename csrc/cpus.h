// Which CPUs this process may use, and how many threads are worth having.
#pragma once
#include <vector>

namespace penstock {

// CPUs in the process's affinity mask: first one of every physical core, then their siblings.
std::vector<int> usable_cpus();
// Physical cores in the affinity mask, but no more than the cgroup's CPU quota; at least 1.
int default_threads();

}  // namespace penstock
