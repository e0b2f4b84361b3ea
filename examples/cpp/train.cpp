// Trains an artifact on the digits of the demo, with ONNX Runtime's C++ API:
//   train ARTIFACT DIGITS RATE STEPS [BATCHES.json RECORD.json]
// BATCHES has the samples of each step, else they are drawn; RECORD takes loss and κ of each step. build.sh builds it.

#define ORT_API_MANUAL_INIT  // any ONNX Runtime from 1.18 on, whatever the headers are from
#include <onnxruntime_cxx_api.h>
#include <zlib.h>

#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

using nlohmann::json;
using Bytes = std::vector<unsigned char>;
using Shape = std::vector<int64_t>;
using Tensors = std::map<std::string, Ort::Value>;

constexpr int API_VERSION = 18;
constexpr int64_t PIXELS = 28 * 28;

/// The content of a file, unpacked where it is gzip.
Bytes read(const std::string& path) {
  gzFile file = gzopen(path.c_str(), "rb");
  if (!file) throw std::runtime_error(path + ": cannot be opened");
  Bytes bytes;
  unsigned char part[1 << 16];
  int count;
  while ((count = gzread(file, part, sizeof part)) > 0) bytes.insert(bytes.end(), part, part + count);
  gzclose(file);
  if (count < 0) throw std::runtime_error(path + ": damaged");
  return bytes;
}

Ort::Value tensor(const Shape& shape, ONNXTensorElementDataType type, const void* data, size_t size) {
  Ort::AllocatorWithDefaultOptions allocator;
  Ort::Value value = Ort::Value::CreateTensor(allocator, shape.data(), shape.size(), type);
  std::memcpy(value.GetTensorMutableRawData(), data, size);
  return value;
}

Ort::Value floats(const Shape& shape, const std::vector<float>& values) {
  return tensor(shape, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, values.data(), values.size() * sizeof(float));
}

/// Parameters and state, by name.
Tensors read_safetensors(const std::string& path) {
  const std::map<std::string, ONNXTensorElementDataType> types = {
      {"F32", ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT}, {"F64", ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE},
      {"I64", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64}, {"I32", ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32}};
  const Bytes bytes = read(path);
  uint64_t size;
  std::memcpy(&size, bytes.data(), sizeof size);
  const unsigned char* start = bytes.data() + sizeof size + size;
  Tensors tensors;
  const json header = json::parse(bytes.data() + sizeof size, start);
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const size_t from = entry["data_offsets"][0], to = entry["data_offsets"][1];
    const Shape shape = entry["shape"];
    tensors.emplace(name, tensor(shape, types.at(entry["dtype"]), start + from, to - from));
  }
  return tensors;
}

/// What a probe or a dropout's mask takes this step: random signs, or ones with their probability.
Ort::Value draw(const json& probe, int64_t batch, std::mt19937& random) {
  Shape shape;
  size_t count = 1;
  for (const json& size : probe["shape"]) shape.push_back(size.is_string() ? batch : size.get<int64_t>());
  for (int64_t size : shape) count *= size;
  const bool signs = probe["distribution"] == "rademacher";
  std::bernoulli_distribution one(signs ? 0.5 : probe["probability"].get<double>());
  std::vector<float> values(count);
  for (float& value : values) value = one(random) ? 1.f : signs ? -1.f : 0.f;
  return floats(shape, values);
}

int main(int count, char** words) try {
  if (count != 5 && count != 7) throw std::runtime_error("usage: train ARTIFACT DIGITS RATE STEPS [BATCHES.json RECORD.json]");
  const std::string artifact = words[1], digits = words[2];
  const OrtApi* api = OrtGetApiBase()->GetApi(API_VERSION);
  if (!api) throw std::runtime_error("this ONNX Runtime is older than 1.18");
  Ort::InitApi(api);

  const json manifest = json::parse(read(artifact + "/manifest.json"));
  const json& graph = manifest["graphs"]["train"];
  const Bytes images = read(digits + "/train-images-idx3-ubyte.gz"), labels = read(digits + "/train-labels-idx1-ubyte.gz");
  const size_t samples = labels.size() - 8;  // behind the header
  std::mt19937 random(0);
  std::vector<std::vector<size_t>> batches(std::stoul(words[4]), std::vector<size_t>(64));
  for (auto& batch : batches)
    for (size_t& sample : batch) sample = std::uniform_int_distribution<size_t>(0, samples - 1)(random);
  if (count == 7) batches = json::parse(read(words[5])).get<decltype(batches)>();

  Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "fam");
  Ort::Session session(environment, (artifact + "/" + graph["path"].get<std::string>()).c_str(), Ort::SessionOptions());
  const Ort::MemoryInfo host = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  Tensors kept = read_safetensors(artifact + "/parameters.safetensors");
  kept.emplace(graph["learning_rate"], floats({}, {std::stof(words[3])}));
  std::vector<json> probes = manifest.value("masks", json::array());
  for (const json& layer : manifest["layers"]) probes.insert(probes.end(), layer["probes"].begin(), layer["probes"].end());

  json record = json::array();
  for (const auto& batch : batches) {
    const int64_t size = batch.size();
    std::vector<float> x;
    std::vector<int64_t> y;
    for (size_t sample : batch) {
      for (int64_t i = 0; i < PIXELS; i++) x.push_back(images.at(16 + sample * PIXELS + i) / 255.f);
      y.push_back(labels.at(8 + sample));
    }
    kept.insert_or_assign(manifest["inputs"][0], floats({size, 1, 28, 28}, x));
    kept.insert_or_assign(manifest["labels"], tensor({size}, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, y.data(), y.size() * sizeof(int64_t)));
    for (const json& probe : probes) kept.insert_or_assign(probe["name"], draw(probe, size, random));

    Ort::IoBinding binding(session);
    for (const auto& [name, value] : kept) binding.BindInput(name.c_str(), value);
    std::vector<std::string> outputs = {graph["loss"]};
    for (const json& name : graph["kappa"]) outputs.push_back(name);
    for (const auto& [name, next] : graph["updates"].items()) outputs.push_back(next);
    for (const std::string& name : outputs) binding.BindOutput(name.c_str(), host);
    session.Run(Ort::RunOptions(), binding);
    std::vector<Ort::Value> results = binding.GetOutputValues();

    size_t at = 0;
    json step = {{"loss", *results[at++].GetTensorData<float>()}, {"kappa", json::array()}};
    for (size_t k = 0; k < graph["kappa"].size(); k++) step["kappa"].push_back(*results[at++].GetTensorData<float>());
    for (const auto& [name, next] : graph["updates"].items()) kept.insert_or_assign(name, std::move(results[at++]));
    record.push_back(step);
  }
  std::cout << "step " << record.size() << ": " << record.back() << "\n";
  if (count == 7) std::ofstream(words[6]) << record;
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << "\n";
  return 1;
}
