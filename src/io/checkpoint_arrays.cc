#include "io/checkpoint_arrays.h"

#include <cstring>
#include <string_view>

#include "base/check.h"

namespace rarefy::io {
namespace {

constexpr std::string_view kParts[] = {".compressed", ".bitmask", ".shape", ".row_offsets"};

StoredArray lookup(const StoredArrays& arrays, const std::string& name) {
  const auto found = arrays.find(name);
  return found == arrays.end() ? StoredArray{} : found->second;
}

/// The arrays at `prefix`, where `seen` (its mask or its values) says that there should be a group.
BitmaskArrays group_at(const StoredArrays& arrays, const std::string& prefix,
                       const StoredArray& seen) {
  BitmaskArrays group{prefix, lookup(arrays, prefix + ".compressed"),
                      lookup(arrays, prefix + ".bitmask"), lookup(arrays, prefix + ".shape"),
                      lookup(arrays, prefix + ".row_offsets")};
  for (const auto& [part, array] :
       {std::pair{".compressed", &group.compressed}, std::pair{".bitmask", &group.bitmask},
        std::pair{".shape", &group.shape}}) {
    if (array->info == nullptr) {
      fail(ErrorKind::kCorrupt, "{}: tensor '{}': expected '{}{}' beside it, found none",
           seen.file->path().string(), seen.info->name, prefix, part);
    }
  }
  return group;
}

std::string logical_name(const std::string& prefix) {
  return prefix.ends_with(".weight") || prefix.ends_with(".bias") ? prefix : prefix + ".weight";
}

}  // namespace

std::vector<StoredArray> LogicalTensor::arrays() const {
  if (!bitmask) return {dense};
  std::vector<StoredArray> all = {bitmask->compressed, bitmask->bitmask, bitmask->shape};
  if (bitmask->row_offsets.info != nullptr) all.push_back(bitmask->row_offsets);
  return all;
}

std::map<std::string, LogicalTensor> group_arrays(const StoredArrays& arrays) {
  std::map<std::string, LogicalTensor> tensors;
  const auto add = [&tensors](const std::string& name, LogicalTensor tensor) {
    const StoredArray array = tensor.values();
    if (!tensors.emplace(name, std::move(tensor)).second) {
      fail(ErrorKind::kCorrupt, "{}: tensor '{}': expected one form of '{}', found two",
           array.file->path().string(), array.info->name, name);
    }
  };
  std::map<std::string, BitmaskArrays> groups;  // by prefix
  for (const auto& [name, array] : arrays) {
    for (const std::string_view part : {kParts[0], kParts[1]}) {
      if (!name.ends_with(part)) continue;
      const std::string prefix = name.substr(0, name.size() - part.size());
      if (!groups.contains(prefix)) groups.emplace(prefix, group_at(arrays, prefix, array));
    }
  }
  for (const auto& [prefix, group] : groups) add(logical_name(prefix), {{}, group});
  for (const auto& [name, array] : arrays) {
    bool grouped = false;
    for (const std::string_view part : kParts) {
      grouped = grouped || (name.ends_with(part) &&
                            groups.contains(name.substr(0, name.size() - part.size())));
    }
    if (!grouped) add(name, {array, std::nullopt});
  }
  return tensors;
}

std::vector<float> dense_floats(const StoredArray& array) {
  const auto count = static_cast<std::size_t>(array.info->elements());
  std::vector<float> out(count);
  if (array.info->dtype == DType::kF64) {
    for (std::size_t i = 0; i < count; ++i) {
      double value;
      std::memcpy(&value, array.data() + i * sizeof value, sizeof value);
      out[i] = static_cast<float>(value);
    }
    return out;
  }
  if (!is_compute_dtype(array.info->dtype)) {
    fail(ErrorKind::kUnsupported, "{}: tensor '{}': expected F32, F16, BF16 or F64, found {}",
         array.file->path().string(), array.info->name, safetensors_name(array.info->dtype));
  }
  // Through an aligned copy: the file may hold the elements at any offset.
  Buffer aligned(array.info->bytes());
  if (count != 0) std::memcpy(aligned.data(), array.data(), array.info->bytes());
  convert_elements(aligned.data(), array.info->dtype, out.data(), DType::kF32, count);
  return out;
}

}  // namespace rarefy::io
