// Filter text to filter tree, checked against a collection's fields.
#pragma once

#include <string_view>

#include "libquashdb/filter_ast.h"
#include "libquashdb/schema.h"
#include "libquashdb/status.h"

namespace quash {

// The errors of Filter::Parse(), all with the offset of what is wrong.
Status ParseFilter(std::string_view text, const CollectionSpec& spec, FilterNode* root);

}  // namespace quash
