// A second translation unit with the header: everything in it must be inline.
#include "quashdb.hpp"

std::string VersionFromSecondUnit() { return quashdb::Version(); }
