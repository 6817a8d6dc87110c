// Sources of rows: what they read, and what they say about broken files.
#include "cli/import.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "cli/error.h"
#include "cli/field_inference.h"
#include "cli/matrix.h"
#include "cli/session.h"
#include "tests/cli/temporary_folder.h"

namespace quash::cli {
namespace {

template <typename T>
std::string Bytes(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

std::string Npy(const std::string& descr, const std::string& shape, const std::string& data,
                const std::string& order = "False") {
  std::string dict =
      "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }";
  dict.resize(117, ' ');
  dict += '\n';
  return std::string("\x93NUMPY\x01\x00\x76\x00", 10) + dict + data;
}

std::vector<ImportRow> ReadAll(RowSource* source) {
  std::vector<ImportRow> rows;
  ImportRow row;
  while (source->Next(&row)) rows.push_back(row);
  return rows;
}

std::string Complaint(const ImportOptions& options) {
  try {
    ReadAll(OpenSource(options).get());
  } catch (const Error& error) {
    return error.what();
  }
  FAIL("no error for " << options.file);
  return "";
}

bool Contains(const std::string& text, std::string_view part) {
  const bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE(text);
  return found;
}

ImportOptions For(const std::string& file) {
  ImportOptions options;
  options.file = file;
  return options;
}

TEST_CASE("halves convert exactly") {
  CHECK(HalfToFloat(0x3C00) == 1.0f);
  CHECK(HalfToFloat(0xC000) == -2.0f);
  CHECK(HalfToFloat(0x3555) == 0x1.554p-2f);
  CHECK(HalfToFloat(0x7BFF) == 65504.0f);
  CHECK(HalfToFloat(0x0001) == 0x1p-24f);
  CHECK(HalfToFloat(0x8000) == 0.0f);
  CHECK(std::signbit(HalfToFloat(0x8000)));
  CHECK(HalfToFloat(0x7C00) == std::numeric_limits<float>::infinity());
  CHECK(std::isnan(HalfToFloat(0x7E00)));
}

TEST_CASE("npy in three precisions") {
  const TemporaryFolder folder;
  const std::vector<float> expected = {1, 2, 3, -0.5, 0.25, 0};
  const std::string files[] = {
      folder.Write("f4.npy", Npy("<f4", "(2, 3)", Bytes(expected))),
      folder.Write("f8.npy", Npy("<f8", "(2, 3)", Bytes<double>({1, 2, 3, -0.5, 0.25, 0}))),
      folder.Write("f2.npy", Npy("<f2", "(2, 3)",
                                 Bytes<uint16_t>({0x3C00, 0x4000, 0x4200, 0xB800, 0x3400, 0})))};
  for (const std::string& file : files) {
    const auto matrix = OpenMatrix(file);
    CHECK(matrix->rows() == 2);
    CHECK(matrix->dim() == 3);
    std::vector<float> values(6);
    matrix->Read(0, 2, values.data());
    CHECK(values == expected);
    matrix->Read(1, 1, values.data());
    CHECK(values[0] == -0.5f);
  }
}

TEST_CASE("npy files that cannot be read say why") {
  const TemporaryFolder folder;
  const std::string data = Bytes<float>({1, 2, 3, 4});
  const auto complain = [&](const std::string& bytes) {
    return Complaint(For(folder.Write("x.npy", bytes)));
  };
  CHECK(Contains(complain(""), "too short"));
  CHECK(Contains(complain(std::string(200, 'x')), "wrong first bytes"));
  CHECK(Contains(complain(Npy("<f4", "(2, 2)", data.substr(1))), "truncated?"));
  CHECK(Contains(complain(Npy("<f4", "(2, 2)", data + "x")), "bytes long"));
  CHECK(Contains(complain(Npy("<f4", "(99999999999, 99999999999)", data)), "more than 2^64"));
  CHECK(Contains(complain(Npy("<f4", "(1, 2, 2)", data)), "3 dimensions"));
  CHECK(Contains(complain(Npy("<f4", "(2, 2)", data, "True")), "Fortran"));
  CHECK(Contains(complain(Npy(">f4", "(2, 2)", data)), "big-endian"));
  CHECK(Contains(complain(Npy("<i4", "(2, 2)", data)), "items of type i4"));
  CHECK(Contains(complain(Npy("<f4", "(4, 0)", "")), "0 coordinates"));
  CHECK(Contains(complain(Npy("<f4", "2, 2", data)), "malformed npy shape"));
  CHECK(Contains(complain(Npy("<f4", "(2, x)", data)), "malformed npy shape"));
  CHECK(Contains(complain(std::string("\x93NUMPY\x01\x00\xFF\xFF", 10) + "{}    "), "malformed"));
  CHECK(Contains(complain(Npy("<f4", "(2, 2)", Bytes<float>({1, 2, NAN, 4}))),
                 "x.npy row 1: coordinate 0 is nan"));
  CHECK(Contains(complain(Npy("<f8", "(1, 1)", Bytes<double>({1e300}))), "coordinate 0 is inf"));
}

TEST_CASE("fvecs, bvecs and ivecs") {
  const TemporaryFolder folder;
  const std::string count = Bytes<int32_t>({2});
  const std::string fvecs = count + Bytes<float>({1, 2}) + count + Bytes<float>({3, 4});
  const std::string bvecs = count + "\x01\xFF" + count + "\x03\x04";
  const std::string ivecs = count + Bytes<int32_t>({-5, 6});
  auto rows = ReadAll(OpenSource(For(folder.Write("a.fvecs", fvecs))).get());
  REQUIRE(rows.size() == 2);
  CHECK(rows[1].vector == std::vector<float>{3, 4});
  rows = ReadAll(OpenSource(For(folder.Write("a.bvecs", bvecs))).get());
  CHECK(rows[0].vector == std::vector<float>{1, 255});
  rows = ReadAll(OpenSource(For(folder.Write("a.ivecs", ivecs))).get());
  CHECK(rows[0].vector == std::vector<float>{-5, 6});
  CHECK(Contains(Complaint(For(folder.Write("b.fvecs", fvecs.substr(0, 20)))), "truncated?"));
  CHECK(Contains(Complaint(For(folder.Write("c.fvecs", ""))), "empty"));
  CHECK(
      Contains(Complaint(For(folder.Write("d.fvecs", Bytes<int32_t>({-1, 0})))), "expected 1 to"));
  const std::string other = Bytes<int32_t>({3}) + Bytes<float>({3, 4});
  CHECK(Contains(Complaint(For(folder.Write("e.fvecs", count + Bytes<float>({1, 2}) + other))),
                 "row 1 (byte 12) has 3 coordinates"));
}

TEST_CASE("metadata and ids beside vectors") {
  const TemporaryFolder folder;
  ImportOptions options = For(folder.Write("v.npy", Npy("<f4", "(2, 1)", Bytes<float>({1, 2}))));
  options.metadata =
      folder.Write("m.jsonl", "{\"name\":\"a\",\"text\":\"x\",\"n\":1}\n{\"name\":\"b\"}\n");
  options.id_field = "name";
  options.document_field = "text";
  auto rows = ReadAll(OpenSource(options).get());
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].id == "a");
  CHECK(*rows[0].document == "x");
  CHECK(rows[0].metadata == OrderedJson({{"n", 1}}));
  CHECK_FALSE(rows[1].document);

  options.metadata = folder.Write("short.jsonl", "{\"name\":\"a\"}\n");
  CHECK(Contains(Complaint(options), "ends after 1 lines"));
  options.metadata = folder.Write("long.jsonl", "{}\n{}\n{}\n");
  CHECK(Contains(Complaint(options), "long.jsonl:3: more lines"));
  options.metadata = folder.Write("bad.jsonl", "{}\n{,}\n");
  CHECK(Contains(Complaint(options), "bad.jsonl:2: not valid JSON"));

  options.metadata.clear();
  options.ids = folder.Write("ids.txt", "p\nq\n");
  rows = ReadAll(OpenSource(options).get());
  CHECK(rows[1].id == "q");
  options.ids = folder.Write("digits.txt", "7\n-8\n");
  auto source = OpenSource(options);
  CHECK(ReadAll(source.get())[1].id == -8);
  source->SetTypes({}, true);
  source->Rewind();
  CHECK(ReadAll(source.get())[1].id == "-8");
  options.ids = folder.Write("latin1.txt", "7\ncaf\xE9\n");
  CHECK(Contains(Complaint(options), "latin1.txt:2: not UTF-8"));
  options.ids = folder.Write("ids.npy", Npy("<i8", "(2,)", Bytes<int64_t>({7, -8})));
  rows = ReadAll(OpenSource(options).get());
  CHECK(rows[1].id == -8);
  options.ids = folder.Write("ids3.npy", Npy("<i8", "(3,)", Bytes<int64_t>({7, 8, 9})));
  CHECK(Contains(Complaint(options), "3 ids for the 2 rows"));
}

TEST_CASE("a source can be read twice") {
  const TemporaryFolder folder;
  const std::string files[] = {
      folder.Write("a.jsonl", "{\"id\":1,\"vector\":[1]}\n\n{\"id\":2,\"vector\":[2]}"),
      folder.Write("a.csv", "id,vector\n1,[1]\n2,[2]\n"),
      folder.Write("a.npy", Npy("<f4", "(2, 1)", Bytes<float>({1, 2})))};
  for (const std::string& file : files) {
    const auto source = OpenSource(For(file));
    CHECK(ReadAll(source.get()).size() == 2);
    source->Rewind();
    const auto rows = ReadAll(source.get());
    REQUIRE(rows.size() == 2);
    CHECK(rows[1].vector == std::vector<float>{2});
  }
}

TEST_CASE("jsonl") {
  const TemporaryFolder folder;
  const auto rows = ReadAll(
      OpenSource(For(folder.Write("a.jsonl",
                                  "\xEF\xBB\xBF{\"id\":\"x\",\"vector\":[1,2.5],\"tags\":[\"t\"],"
                                  "\"document\":\"d\"}\r\n")))
          .get());
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].vector == std::vector<float>{1, 2.5});
  CHECK(*rows[0].document == "d");
  const auto complain = [&](const std::string& text) {
    return Complaint(For(folder.Write("b.jsonl", "{\"vector\":[1]}\n" + text)));
  };
  CHECK(Contains(complain("{\"vector\":[1"), "b.jsonl:2: not valid JSON at byte"));
  CHECK(Contains(complain("[1]"), "b.jsonl:2: a JSON array; expected an object"));
  CHECK(Contains(complain("{\"v\":[1]}"), "no \"vector\""));
  CHECK(Contains(complain("{\"vector\":\"1\"}"), "the vector is string"));
  CHECK(Contains(complain("{\"vector\":[1,null]}"), "coordinate 1"));
  CHECK(Contains(complain("{\"vector\":[1e300]}"), "coordinate 0"));
  CHECK(Contains(complain("{\"vector\":[1e999]}"), "b.jsonl:2: a number beyond the range"));
  CHECK(Contains(complain("{\"vector\":[1],\"document\":5}"), "the document"));
}

TEST_CASE("csv") {
  const TemporaryFolder folder;
  ImportOptions options =
      For(folder.Write("a.csv",
                       "id,vector,n,x,flag,name,list\r\n"
                       "1,\"[1, 2]\",7,1.5,true,\"a, \"\"b\"\"\nc\",\"[\"\"p\"\"]\"\r\n"
                       "2,\"[3, 4]\",,-2e3,FALSE,007,\n"));
  const auto source = OpenSource(options);
  auto rows = ReadAll(source.get());
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].id == 1);
  CHECK(rows[0].metadata["n"] == 7);
  CHECK(rows[0].metadata["x"] == 1.5);
  CHECK(rows[0].metadata["flag"] == true);
  CHECK(rows[0].metadata["name"] == "a, \"b\"\nc");
  CHECK(rows[0].metadata["list"] == OrderedJson({"p"}));
  CHECK_FALSE(rows[1].metadata.contains("n"));
  CHECK(rows[1].metadata["name"] == "007");
  const std::string marked = "\xEF\xBB\xBF\"id\",vector\n5,[1]\n";
  CHECK(ReadAll(OpenSource(For(folder.Write("marked.csv", marked))).get())[0].id == 5);
  // A field that is text keeps every digit.
  source->SetTypes({{"n", QUASH_FIELD_STRING}}, true);
  source->Rewind();
  rows = ReadAll(source.get());
  CHECK(rows[0].metadata["n"] == "7");
  CHECK(rows[0].id == "1");

  const auto complain = [&](const std::string& text) {
    return Complaint(For(folder.Write("b.csv", text)));
  };
  CHECK(Contains(complain(""), "empty"));
  CHECK(Contains(complain("id,x\n1,2\n"), "no column \"vector\""));
  CHECK(Contains(complain("id,vector,id\n1,[1],2\n"), "two columns are named \"id\""));
  CHECK(Contains(complain("id,vector\n1\n"), "b.csv:2: 1 fields; the header has 2"));
  CHECK(Contains(complain("id,vector\n1,\"[1]"), "b.csv:2: no closing \""));
  CHECK(Contains(complain("id,vector\n1,[1\n"), "b.csv:2: the vector is no JSON list"));
  CHECK(Contains(complain("id,vector\n1,\"[1]\"x\n"), "b.csv:2: text after a closing"));
  CHECK(Contains(complain("vector,name\n[1],caf\xE9\n"), "b.csv:2: column \"name\" is not UTF-8"));
  CHECK(Contains(complain("vector,caf\xE9\n[1],x\n"), "b.csv:1: the header is not UTF-8"));
}

TEST_CASE("csv tells an empty text from NULL, and lists that no field holds are text") {
  const TemporaryFolder folder;
  const auto source = OpenSource(For(folder.Write(
      "a.csv", "vector,s,n,document\n[1],\"\",\"\",\"\"\n[1],,,\n[1],[1.5],7,x\n[1],[],8,y\n")));
  auto rows = ReadAll(source.get());
  REQUIRE(rows.size() == 4);
  CHECK(rows[0].metadata["n"].is_null());
  CHECK(rows[0].document == "");
  CHECK_FALSE(rows[1].document);
  CHECK(rows[2].metadata["s"] == "[1.5]");
  CHECK(rows[3].metadata["s"] == OrderedJson::array());
  source->SetTypes({{"s", QUASH_FIELD_STRING}, {"n", QUASH_FIELD_INT}}, false);
  source->Rewind();
  rows = ReadAll(source.get());
  CHECK(rows[0].metadata["s"] == "");
  CHECK(rows[0].metadata["n"].is_null());
  CHECK_FALSE(rows[1].metadata.contains("s"));
  CHECK(rows[3].metadata["s"] == "[]");
}

// Rows that the library would refuse are found before the first batch, whatever
// has been committed by the time it would meet them.
TEST_CASE("a file with one bad row changes nothing") {
  const TemporaryFolder folder;
  Session session;
  session.settings.progress = false;
  session.Open(":memory:", QUASH_OPEN_CREATE);
  const auto complaint = [&](const std::string& file, const char* metric) {
    ImportOptions options = For(file);
    options.collection = "made";
    options.create = true;
    options.metric = metric;
    std::string message;
    try {
      Import(session, options);
    } catch (const Error& error) {
      message = error.what();
    }
    CHECK(session.CollectionNames().empty());
    return message;
  };
  const auto complain = [&](const std::string& bad_row, const char* metric) {
    return complaint(folder.Write("rows.jsonl", "{\"vector\":[1,2]}\n" + bad_row), metric);
  };
  CHECK(Contains(complain("{\"vector\":[0,0]}", "cosine"), "rows.jsonl:2: the vector has norm 0"));
  CHECK(Contains(complain("{\"vector\":[70000,0]}", "l2"), "rows.jsonl:2: coordinate 70000"));
  CHECK(Contains(complain("{\"vector\":[1,0],\"document\":\"a\\u0000\"}", "l2"),
                 "rows.jsonl:2: NUL byte in the document"));
  CHECK(Contains(complain("{\"vector\":[1]}", "l2"), "rows.jsonl:2: the vector has 1"));
  const auto with = [](const std::string& key, const std::string& value) {
    return "{\"vector\":[1,0],\"" + key + "\":\"" + value + "\"}";
  };
  CHECK(Contains(complain(with("document", std::string(QUASH_DOCUMENT_BYTES_MAX + 1, 'x')), "l2"),
                 "rows.jsonl:2: the document is 16777217 bytes long"));
  CHECK(Contains(complain(with("a", std::string(QUASH_METADATA_BYTES_MAX, 'x')), "l2"),
                 "rows.jsonl:2: the fields are 1048584 bytes of JSON"));
  // The first row is bad here, as ids are all of one type.
  const auto complain_id = [&](const std::string& id) {
    return complaint(folder.Write("ids.jsonl", "{\"vector\":[1,2],\"id\":" + id + "}\n"), "cosine");
  };
  CHECK(Contains(complain_id("18446744073709551615"), "ids.jsonl:1: id 18446744073709551615 is"));
  CHECK(Contains(complain_id("\"\""), "ids.jsonl:1: the id is empty"));
  CHECK(Contains(complain_id("\"" + std::string(1025, 'x') + "\""), "the id is 1025 bytes long"));
  CHECK(Contains(complain_id("1.5"), "neither an integer nor text"));
}

TEST_CASE("names given on purpose that no row has are refused") {
  const TemporaryFolder folder;
  Session session;
  session.settings.progress = false;
  session.Open(":memory:", QUASH_OPEN_CREATE);
  const auto import = [&](const std::string& file, const std::string& text, auto set) {
    ImportOptions options = For(folder.Write(file, text));
    options.collection = "made";
    options.create = true;
    set(&options);
    try {
      Import(session, options);
    } catch (const Error& error) {
      CHECK(session.CollectionNames().empty());
      return std::string(error.what());
    }
    quash_collection_drop(session.db(), "made");
    return std::string();
  };
  const std::string rows = "{\"vector\":[1,2],\"name\":\"a\",\"text\":\"x\",\"n\":null}\n";
  const std::string csv = "vector,name,text,n\n[1],a,,\n";
  CHECK(Contains(import("a.jsonl", rows, [](ImportOptions* o) { o->id_field = "nmae"; }),
                 "has a \"nmae\" (--id-field)"));
  CHECK(Contains(import("a.csv", csv, [](ImportOptions* o) { o->document_field = "txt"; }),
                 "has a \"txt\" (--document-field)"));
  CHECK(Contains(import("a.jsonl", rows,
                        [](ImportOptions* o) {
                          o->fields = {"n", "nn"};
                        }),
                 "has a \"nn\" (--fields)"));
  CHECK(import("a.jsonl", rows, [](ImportOptions* o) { o->fields = {"n"}; }) == "");
  CHECK(import("a.csv", csv, [](ImportOptions* o) {
          o->fields = {"n"};
          o->document_field = "text";
        }) == "");
}

TEST_CASE("what can be read only once is refused") {
  const TemporaryFolder folder;
  const std::string path = folder.Write("pipe.jsonl", "");
  std::filesystem::remove(path);
  REQUIRE(mkfifo(path.c_str(), 0600) == 0);
  const int writer = open(path.c_str(), O_RDWR);  // so that opening it does not wait
  CHECK(Contains(Complaint(For(path)), "a pipe or device"));
  close(writer);
  CHECK(Contains(Complaint(For("/dev/stdin")), "cannot be read twice"));
}

TEST_CASE("other files are refused with a way out") {
  CHECK(Contains(Complaint(For("a.parquet")), "pandas.read_parquet"));
  CHECK(Contains(Complaint(For("a.h5")), "h5py"));
  CHECK(Contains(Complaint(For("a.jsonl.xz")), "unpack it first"));
  CHECK(Contains(Complaint(For("missing.npy")), "cannot read missing.npy"));
  ImportOptions options = For("a.csv");
  options.metadata = "m.jsonl";
  CHECK(Contains(Complaint(options), "--metadata"));
}

std::vector<Field> Infer(const std::vector<std::string>& values, bool text_source = false) {
  FieldInference inference(text_source);
  size_t line = 0;
  for (const std::string& value : values) {
    inference.Add("f", OrderedJson::parse(value), [&] { return std::to_string(++line); });
  }
  return inference.Resolve();
}

TEST_CASE("types are told from values") {
  CHECK(Infer({"1", "2"})[0].type == QUASH_FIELD_INT);
  CHECK(Infer({"1", "2.5"})[0].type == QUASH_FIELD_FLOAT);
  CHECK(Infer({"null", "true"})[0].type == QUASH_FIELD_BOOL);
  CHECK(Infer({"\"a\""})[0].type == QUASH_FIELD_STRING);
  CHECK(Infer({"[]", "[1]"})[0].type == QUASH_FIELD_INT_LIST);
  CHECK(Infer({"[\"a\"]", "[]"})[0].type == QUASH_FIELD_STRING_LIST);
  CHECK(Infer({"[]"})[0].type == QUASH_FIELD_STRING_LIST);
  CHECK(Infer({"null"})[0].type == QUASH_FIELD_STRING);
  CHECK(Infer({"1", "\"a\""}, true)[0].type == QUASH_FIELD_STRING);
  CHECK_THROWS_WITH_AS(Infer({"1", "\"a\""}),
                       "field \"f\" is INT at 1 and STRING at 2; make it one type, or leave it "
                       "out with --fields",
                       Error);
  CHECK_THROWS_AS(Infer({"{}"}), Error);
  CHECK_THROWS_AS(Infer({"[1, \"a\"]"}), Error);
  CHECK_THROWS_AS(Infer({"18446744073709551615"}), Error);
}

TEST_CASE("values are checked against an existing collection") {
  Schema schema;
  schema.name = "docs";
  schema.fields = {{"size", QUASH_FIELD_FLOAT}, {"count", QUASH_FIELD_INT}};
  const auto check = [&](const char* name, const char* value) {
    FieldInference inference(false);
    inference.Add(name, OrderedJson::parse(value), [] { return "m.jsonl:3"; });
    inference.CheckAgainst(schema);
  };
  CHECK_NOTHROW(check("size", "1"));
  CHECK_NOTHROW(check("count", "null"));
  CHECK_THROWS_WITH_AS(check("count", "1.5"),
                       "m.jsonl:3: field \"count\" is FLOAT; the collection has it as INT", Error);
  CHECK_THROWS_WITH_AS(check("sise", "1"),
                       "docs has no field \"sise\"; did you mean size?; add it with ALTER "
                       "COLLECTION docs ADD FIELD sise INT, or leave it out with --fields",
                       Error);
}

}  // namespace
}  // namespace quash::cli
