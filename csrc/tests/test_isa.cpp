// The choice of an instruction set: the environment overrides, and what cannot be had is refused with reasons.
#include "support.h"

using namespace penstock;
using namespace penstock::test;

int main() {
    unsetenv("PENSTOCK_ISA");
    const auto possible = possible_isas();
    CHECK(!possible.empty() && possible.front() == "generic");
    CHECK(isa_name(*resolve_isa("").kernels) == possible.back());
    CHECK(isa_name(*resolve_isa("auto").kernels) == possible.back());
    for (const std::string& name : possible) CHECK(isa_name(*resolve_isa(name).kernels) == name);

    setenv("PENSTOCK_ISA", "generic", 1);
    CHECK(isa_name(*resolve_isa("").kernels) == std::string("generic"));
    CHECK(isa_name(*resolve_isa(possible.back()).kernels) == possible.back(), "an explicit name goes first");
    setenv("PENSTOCK_ISA", "avx1024", 1);
    const IsaChoice wrong = resolve_isa("");
    CHECK(wrong.kernels == nullptr);
    CHECK(wrong.error.find("PENSTOCK_ISA=avx1024") != std::string::npos, "%s", wrong.error.c_str());
    CHECK(wrong.error.find("generic") != std::string::npos, "%s", wrong.error.c_str());
    for (const char* name : {"avx2", "avx512", "amx"}) {
        const IsaChoice choice = resolve_isa(name);
        CHECK((choice.kernels == nullptr) == !choice.error.empty());
        if (choice.kernels == nullptr)
            CHECK(choice.error.find("lacks") != std::string::npos, "%s", choice.error.c_str());
    }
    std::printf("isa: ok\n");
    return 0;
}
