// The arrays of CSR, delta and N:M: exact bytes, known layouts, and validation that finds each kind
// of damage and says where.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "formats/csr.h"
#include "formats/delta.h"
#include "formats/nm.h"
#include "formats/panels.h"
#include "formats/test_weights.h"

namespace rarefy {
namespace {

Buffer copy(const Buffer& from, std::size_t bytes) {
  Buffer to = Buffer::zeros(bytes);
  if (bytes != 0) std::memcpy(to.data(), from.data(), std::min(bytes, from.size()));
  return to;
}
Buffer copy(const Buffer& from) {
  return copy(from, from.size());
}

PackedShape shape_of(const Matrix& a) {
  return {a.spec(), a.rows(), a.cols(), a.dtype(), a.nnz()};
}

void expect_corrupt(const Matrix& a, const std::string& part) {
  try {
    a.validate();
    FAIL() << "expected damage to be found: " << part;
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kCorrupt);
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

/// A 3×40 weight with an empty row in the middle, gaps of 1, 15, 16 and 39.
MatrixPtr sample(const FormatSpec& spec, DType dtype = DType::kF32) {
  std::vector<float> values(3 * 40, 0.0F);
  values[0] = 1;
  values[1] = 2;
  values[16] = 3;
  values[32] = 4;
  values[80 + 39] = 5;
  return pack(DenseSource({values.data(), DType::kF32, 3, 40, 40}), spec, dtype);
}

template <class T>
T& entry(Buffer& buffer, std::size_t i) {
  return buffer.as<T>()[i];
}

class CsrStructure : public ::testing::TestWithParam<int> {
 protected:
  MatrixPtr a_ = sample({Format::kCsr, GetParam()});
  const CsrMatrix& csr() { return dynamic_cast<const CsrMatrix&>(*a_); }
  CsrMatrix::Arrays arrays_{copy(csr().arrays().row_offsets), copy(csr().arrays().col_indices),
                            copy(csr().arrays().values)};
  void set_column(std::size_t i, std::uint32_t column) {
    if (GetParam() == 32) {
      entry<std::uint32_t>(arrays_.col_indices, i) = column;
    } else {
      entry<std::uint16_t>(arrays_.col_indices, i) = static_cast<std::uint16_t>(column);
    }
  }
  void expect(const std::string& part) {
    expect_corrupt(CsrMatrix(shape_of(*a_), std::move(arrays_)), part);
  }
};

TEST_P(CsrStructure, HasExactBytes) {
  const auto index = static_cast<std::size_t>(GetParam() / 8);
  EXPECT_EQ(a_->bytes(), 4 * 8 + 5 * (index + 4) + 2 * kTailBytes);
  EXPECT_EQ(sample({Format::kCsr, GetParam()}, DType::kBF16)->bytes(),
            4 * 8 + 5 * (index + 2) + 2 * kTailBytes);
}
TEST_P(CsrStructure, FindsAnOffsetThatFalls) {
  entry<std::int64_t>(arrays_.row_offsets, 2) = 3;
  expect("row_offsets[2]: expected at least 4, found 3");
}
TEST_P(CsrStructure, FindsAFirstOffsetThatIsNotZero) {
  entry<std::int64_t>(arrays_.row_offsets, 0) = 1;
  expect("row_offsets[0]: expected 0, found 1");
}
TEST_P(CsrStructure, FindsALastOffsetBeyondTheArrays) {
  entry<std::int64_t>(arrays_.row_offsets, 3) = 6;
  expect("col_indices: expected");
}
TEST_P(CsrStructure, FindsAShortOffsetArray) {
  arrays_.row_offsets = copy(arrays_.row_offsets, 24);
  expect("row_offsets: expected 32 bytes, found 24");
}
TEST_P(CsrStructure, FindsAColumnThatFalls) {
  set_column(2, 1);
  expect("col_indices[2] of row 0: expected 2 to 39, found 1");
}
TEST_P(CsrStructure, FindsAColumnBeyondTheMatrix) {
  set_column(4, 40);
  expect("col_indices[4] of row 2: expected 0 to 39, found 40");
}
TEST_P(CsrStructure, FindsAMissingNonzero) {
  entry<float>(arrays_.values, 3) = 0.0F;
  expect("values: expected 5 nonzeros, found 4");
}
TEST_P(CsrStructure, FindsAShortValueArray) {
  arrays_.values = copy(arrays_.values, arrays_.values.size() - 4);
  expect("values: expected");
}
INSTANTIATE_TEST_SUITE_P(Widths, CsrStructure, ::testing::Values(16, 32));

class DeltaStructure : public ::testing::TestWithParam<int> {
 protected:
  MatrixPtr a_ = sample({Format::kDelta, GetParam()});
  const DeltaMatrix& delta() { return dynamic_cast<const DeltaMatrix&>(*a_); }
  DeltaMatrix::Arrays arrays_{copy(delta().arrays().group_offsets),
                              copy(delta().arrays().value_offsets), copy(delta().arrays().codes),
                              copy(delta().arrays().values)};
  void expect(const std::string& part) {
    expect_corrupt(DeltaMatrix(shape_of(*a_), std::move(arrays_)), part);
  }
};

TEST_P(DeltaStructure, HasExactBytesAndTheDocumentedCodes) {
  EXPECT_EQ(a_->bytes(), 2 * 4 * 8 + 2 * 32 + 5 * 4 + 2 * kTailBytes);
  const std::uint8_t* codes = delta().codes();
  if (GetParam() == 8) {  // 1, 1, 15, 16; then 40.
    EXPECT_EQ(std::vector<int>(codes, codes + 5), (std::vector<int>{1, 1, 15, 16, 0}));
    EXPECT_EQ(codes[32], 40);
  } else {  // 1, 1, 15, escape, 1; then escape, escape, 10.
    EXPECT_EQ(std::vector<int>(codes, codes + 3), (std::vector<int>{0x11, 0x0F, 0x01}));
    EXPECT_EQ(std::vector<int>(codes + 32, codes + 34), (std::vector<int>{0x00, 0x0A}));
  }
}
TEST_P(DeltaStructure, FindsAFallingOffset) {
  entry<std::int64_t>(arrays_.value_offsets, 2) = 3;
  expect("value_offsets[2]: expected at least 4, found 3");
}
TEST_P(DeltaStructure, FindsAFallingGroup) {
  entry<std::int64_t>(arrays_.group_offsets, 2) = 0;
  expect("group_offsets[2]: expected at least 1, found 0");
}
TEST_P(DeltaStructure, FindsAColumnBeyondTheMatrix) {
  // Row 2 goes to column 40 instead of 39.
  entry<std::uint8_t>(arrays_.codes, GetParam() == 8 ? 32 : 33) = GetParam() == 8 ? 41 : 0x0B;
  expect("codes of row 2, code");
}
TEST_P(DeltaStructure, FindsACodeBehindTheLast) {
  entry<std::uint8_t>(arrays_.codes, 20) = 1;  // Behind escapes that lead out of the matrix.
  expect(GetParam() == 8 ? "codes of row 0, code 20" : "codes of row 0, code 40");
}
TEST_P(DeltaStructure, FindsAValueWithoutACode) {
  entry<std::uint8_t>(arrays_.codes, GetParam() == 8 ? 32 : 33) = 0;
  expect("codes of row 2: expected 1 values, found 0");
}
TEST_P(DeltaStructure, FindsAMissingNonzero) {
  entry<float>(arrays_.values, 0) = 0.0F;
  expect("values: expected 5 nonzeros, found 4");
}
TEST_P(DeltaStructure, FindsShortArrays) {
  arrays_.codes = copy(arrays_.codes, 32);
  expect("codes: expected 128 bytes, found 32");
}
INSTANTIATE_TEST_SUITE_P(Widths, DeltaStructure, ::testing::Values(4, 8));

class NmStructure : public ::testing::Test {
 protected:
  /// 2×10, 2:4: groups of columns 0-3, 4-7 and the short 8-9.
  static MatrixPtr make() {
    std::vector<float> values(2 * 10, 0.0F);
    values[1] = 1;
    values[3] = 2;
    values[6] = 3;
    values[10 + 9] = 4;
    return pack(DenseSource({values.data(), DType::kF32, 2, 10, 10}), format::nm(2, 4));
  }
  MatrixPtr a_ = make();
  const NmMatrix& nm() { return dynamic_cast<const NmMatrix&>(*a_); }
  NmMatrix::Arrays arrays_{copy(nm().arrays().values), copy(nm().arrays().indices)};
  void expect(const std::string& part) {
    expect_corrupt(NmMatrix(shape_of(*a_), std::move(arrays_)), part);
  }
};

TEST_F(NmStructure, HasExactBytesAndTheDocumentedLayout) {
  EXPECT_EQ(nm().row_slots(), 16);
  EXPECT_EQ(nm().row_index_bytes(), 4);
  EXPECT_EQ(a_->bytes(), 2 * 16 * 4 + 2 * 4 + 2 * kTailBytes);
  EXPECT_EQ(nm().indices()[0], 1 | (3 << 2) | (2 << 4));
  EXPECT_EQ(nm().indices()[5], 1);  // Row 1, slot 4: place 1 of the short group.
}
TEST_F(NmStructure, FindsPlacesOutOfOrder) {
  entry<std::uint8_t>(arrays_.indices, 0) = 3 | (1 << 2) | (2 << 4);
  expect("indices of row 0, slot 1: expected 4 to 3, found 1");
}
TEST_F(NmStructure, FindsAPlaceBeyondTheLastColumn) {
  entry<std::uint8_t>(arrays_.indices, 5) = 2;
  expect("indices of row 1, slot 4: expected 0 to 1, found 2");
}
TEST_F(NmStructure, FindsAPlaceInAnEmptySlot) {
  entry<std::uint8_t>(arrays_.indices, 3) = 1;
  expect("indices of row 0, slot 12: expected 0 (empty), found 1");
}
TEST_F(NmStructure, FindsAValueBehindAnEmptySlot) {
  entry<float>(arrays_.values, 16 + 1) = 7;
  expect("values of row 1, slot 1: expected an empty slot");
}
TEST_F(NmStructure, FindsAValueBehindTheRow) {
  entry<float>(arrays_.values, 6) = 7;
  expect("values of row 0, slot 6: expected an empty slot");
}
TEST_F(NmStructure, FindsShortArrays) {
  arrays_.indices = copy(arrays_.indices, 8);
  expect("indices: expected 72 bytes, found 8");
}

TEST(NmPack, NamesTheFirstGroupThatBreaksThePattern) {
  std::vector<float> values(40 * 24, 0.0F);
  for (const std::size_t i :
       {17 * 24 + 9, 17 * 24 + 10, 17 * 24 + 11, 30 * 24, 30 * 24 + 1, 30 * 24 + 2})
    values[i] = 1;
  try {
    pack(DenseSource({values.data(), DType::kF32, 40, 24, 24}), format::nm(2, 4));
    FAIL() << "packed what is not 2:4";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUnsupported);
    EXPECT_STREQ(
        e.what(),
        "pack as 2:4: expected at most 2 nonzeros in columns 8 to 11 of row 17, found more");
  }
}

}  // namespace
}  // namespace rarefy
