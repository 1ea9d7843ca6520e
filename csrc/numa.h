// Memory of machines with several nodes: what all workers read lies on all nodes whose CPUs they use, page by page in
// turn, so that no node's memory is read by everybody.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace penstock {

// The numbers of a list as the kernel writes it, "0-2,5"; what is no list gives none.
std::vector<int> cpu_list(const std::string& text);

// The nodes under `folder` (/sys/devices/system/node) that have memory and one of these CPUs, in order.
std::vector<int> nodes_of(const std::string& folder, const std::vector<int>& cpus);

// This process's, found once.
const std::vector<int>& own_nodes();

// Pages of [data, data + bytes) that are touched from now on come from these nodes in turn. False where the system does
// not do so. Nothing to do for one node, or where who started the process chose a policy (numactl).
bool spread(void* data, size_t bytes, const std::vector<int>& nodes);

}  // namespace penstock
