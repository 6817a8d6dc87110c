#include "libquashdb/filter.h"

#include "libquashdb/filter_ast.h"
#include "libquashdb/filter_eval.h"
#include "libquashdb/filter_parser.h"

namespace quash {

Filter::~Filter() = default;

Status Filter::Parse(std::string_view text, const CollectionSpec& spec,
                     std::shared_ptr<const Filter>* out) {
  auto root = std::make_unique<FilterNode>();
  QUASH_RETURN_IF_ERROR(ParseFilter(text, spec, root.get()));
  std::shared_ptr<Filter> filter(new Filter);
  filter->text_ = text;
  filter->root_ = std::move(root);
  *out = std::move(filter);
  return Status();
}

Status Filter::Apply(const Segment& segment, std::vector<uint32_t>* rows) const {
  return EvaluateFilter(*root_, segment, rows);
}

}  // namespace quash
