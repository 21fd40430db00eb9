// Loads an export by TensorFlow's C API, which calls the function that TF Serving loads it with,
// and asks what clients may ask.
//
//   load_saved_model EXPORT_DIR REQUESTS...
//
// REQUESTS are TFRecord files of tensorflow.serving.PredictionLog, with requests and responses. A
// check prints lines of its name, the signature, the rows (of a thread: the requests) and the
// largest difference between what the session gives and the responses: infinite where it gives an
// error, another shape or NaN. The exit status is 0 if none is above 1e-6.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "tensorflow/c/c_api.h"

using Tensors = std::map<std::string, TF_Tensor*>;     // none is freed: the program ends soon
using Endpoints = std::map<std::string, std::string>;  // from a signature's names to the graph's

constexpr double kTolerance = 1e-6;
constexpr int kThreads = 8;
constexpr int kRounds = 5;

// Fields of tensorflow_serving/apis/*.proto and of tensorflow/core/protobuf/meta_graph.proto, whose
// generated code would take longer to compile than all else.
constexpr int kPredictLog = 6;                              // of PredictionLog
constexpr int kRequest = 1, kResponse = 2;                  // of PredictLog
constexpr int kModelSpec = 1, kInputs = 2;                  // of PredictRequest
constexpr int kOutputs = 1;                                 // of PredictResponse
constexpr int kSignatureName = 3;                           // of ModelSpec
constexpr int kSignatureDef = 5;                            // of MetaGraphDef
constexpr int kSignatureInputs = 1, kSignatureOutputs = 2;  // of SignatureDef
constexpr int kTensorName = 1;                              // of TensorInfo
constexpr int kKey = 1, kValue = 2;                         // of an entry of a map

struct Signature {
  Endpoints inputs, outputs;
};

struct Request {
  std::string signature;
  Tensors inputs, response;

  int64_t rows() const { return TF_Dim(response.begin()->second, 0); }
};

struct Model {
  TF_Graph* graph;
  TF_Session* session;
  std::map<std::string, Signature> signatures;
};

void Check(bool is_right, const std::string& message) {
  if (is_right) return;
  std::cerr << message << '\n';
  std::exit(2);
}

void CheckOk(const TF_Status* status) { Check(TF_GetCode(status) == TF_OK, TF_Message(status)); }

uint64_t ReadVarint(const std::string& message, size_t* place) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const uint64_t byte = static_cast<unsigned char>(message.at((*place)++));
    value |= (byte & 127) << shift;
    if (byte < 128) return value;
  }
}

// Returns the bytes of each field of this number in a serialized message.
std::vector<std::string> ReadFields(const std::string& message, uint64_t number) {
  std::vector<std::string> found;
  for (size_t place = 0; place < message.size();) {
    const uint64_t tag = ReadVarint(message, &place);
    const int wire_type = tag & 7;
    if (wire_type == 0) {
      ReadVarint(message, &place);
      continue;
    }
    Check(wire_type == 1 || wire_type == 2 || wire_type == 5, "A message is damaged.");
    const uint64_t size = wire_type == 2 ? ReadVarint(message, &place) : (wire_type == 1 ? 8 : 4);
    Check(size <= message.size() - place, "A message is cut off.");
    if (tag >> 3 == number) found.push_back(message.substr(place, size));
    place += size;
  }
  return found;
}

std::string ReadField(const std::string& message, int number) {
  return ReadFields(message, number).at(0);
}

Tensors ReadTensors(const std::string& message, int number) {
  Tensors tensors;
  TF_Status* status = TF_NewStatus();
  for (const std::string& entry : ReadFields(message, number)) {
    const std::string proto = ReadField(entry, kValue);
    TF_Tensor* tensor = TF_AllocateTensor(TF_FLOAT, nullptr, 0, sizeof(float));
    TF_TensorFromProto(TF_NewBufferFromString(proto.data(), proto.size()), tensor, status);
    CheckOk(status);
    tensors[ReadField(entry, kKey)] = tensor;
  }
  return tensors;
}

std::vector<Request> ReadRequests(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  Check(file.is_open(), path + " cannot be read.");
  std::vector<Request> requests;
  uint64_t size;
  char checksum[4];
  while (file.read(reinterpret_cast<char*>(&size), sizeof(size))) {
    file.read(checksum, sizeof(checksum));
    std::string record(size, '\0');
    file.read(record.data(), size);
    file.read(checksum, sizeof(checksum));
    Check(file.good(), path + " is cut off.");
    const std::string log = ReadField(record, kPredictLog);
    const std::string request = ReadField(log, kRequest);
    const std::string response = ReadField(log, kResponse);
    requests.push_back({ReadField(ReadField(request, kModelSpec), kSignatureName),
                        ReadTensors(request, kInputs), ReadTensors(response, kOutputs)});
  }
  return requests;
}

Endpoints ReadEndpoints(const std::string& signature, int number) {
  Endpoints endpoints;
  for (const std::string& entry : ReadFields(signature, number)) {
    endpoints[ReadField(entry, kKey)] = ReadField(ReadField(entry, kValue), kTensorName);
  }
  return endpoints;
}

Model Load(const char* export_dir) {
  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_Buffer* buffer = TF_NewBuffer();
  const char* tags[] = {"serve"};
  TF_Session* session = TF_LoadSessionFromSavedModel(TF_NewSessionOptions(), nullptr, export_dir,
                                                     tags, 1, graph, buffer, status);
  CheckOk(status);
  Model model{graph, session};
  const std::string meta_graph(static_cast<const char*>(buffer->data), buffer->length);
  for (const std::string& entry : ReadFields(meta_graph, kSignatureDef)) {
    const std::string signature = ReadField(entry, kValue);
    model.signatures[ReadField(entry, kKey)] = {ReadEndpoints(signature, kSignatureInputs),
                                                ReadEndpoints(signature, kSignatureOutputs)};
  }
  return model;
}

// Returns the output of an operation that is called "operation:index".
TF_Output Find(const Model& model, const std::string& name) {
  const size_t colon = name.rfind(':');
  TF_Operation* operation = TF_GraphOperationByName(model.graph, name.substr(0, colon).c_str());
  Check(operation != nullptr, "The graph has no " + name);
  return {operation, std::stoi(name.substr(colon + 1))};
}

// Gives the outputs in the order of the response.
TF_Code Run(const Model& model, const Request& request, std::vector<TF_Tensor*>* outputs) {
  const Signature& signature = model.signatures.at(request.signature);
  std::vector<TF_Output> fed, fetched;
  std::vector<TF_Tensor*> values;
  for (const auto& [name, tensor] : request.inputs) {
    fed.push_back(Find(model, signature.inputs.at(name)));
    values.push_back(tensor);
  }
  for (const auto& [name, endpoint] : signature.outputs) {
    Check(request.response.count(name), "No response has " + name);
  }
  for (const auto& [name, tensor] : request.response) {
    fetched.push_back(Find(model, signature.outputs.at(name)));
  }
  outputs->resize(fetched.size());
  TF_Status* status = TF_NewStatus();
  TF_SessionRun(model.session, nullptr, fed.data(), values.data(), fed.size(), fetched.data(),
                outputs->data(), fetched.size(), nullptr, 0, nullptr, status);
  return TF_GetCode(status);
}

std::vector<int64_t> Shape(const TF_Tensor* tensor) {
  std::vector<int64_t> shape;
  for (int axis = 0; axis < TF_NumDims(tensor); ++axis) shape.push_back(TF_Dim(tensor, axis));
  return shape;
}

double Difference(const TF_Tensor* found, const TF_Tensor* expected) {
  if (TF_TensorType(found) != TF_FLOAT || TF_TensorType(expected) != TF_FLOAT) return INFINITY;
  if (Shape(found) != Shape(expected)) return INFINITY;
  const auto* left = static_cast<const float*>(TF_TensorData(found));
  const auto* right = static_cast<const float*>(TF_TensorData(expected));
  double largest = 0;
  for (int64_t i = 0; i < TF_TensorElementCount(expected); ++i) {
    const double difference = std::abs(left[i] - right[i]);
    largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
  }
  return largest;
}

double RunAndCompare(const Model& model, const Request& request) {
  std::vector<TF_Tensor*> outputs;
  if (Run(model, request, &outputs) != TF_OK) return INFINITY;
  double largest = 0;
  auto found = outputs.begin();
  for (const auto& [name, expected] : request.response) {
    largest = std::max(largest, Difference(*found++, expected));
  }
  return largest;
}

// Returns the largest difference of each thread.
std::vector<double> RunInThreads(const Model& model, const std::vector<Request>& requests) {
  std::vector<double> largest(kThreads, 0);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (size_t run = 0; run < kRounds * requests.size(); ++run) {
        const Request& request = requests[(run + thread) % requests.size()];
        largest[thread] = std::max(largest[thread], RunAndCompare(model, request));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return largest;
}

// Returns copies of the first `size` rows of tensors that follow each other; where these are fewer,
// the first row of the last tensor stands for those that are missing.
TF_Tensor* TakeRows(const std::vector<TF_Tensor*>& parts, int64_t size) {
  const TF_DataType dtype = TF_TensorType(parts[0]);
  std::vector<int64_t> shape = Shape(parts[0]);
  int64_t width = 1;  // values of a row
  for (size_t axis = 1; axis < shape.size(); ++axis) width *= shape[axis];
  shape[0] = size;
  const size_t bytes = dtype == TF_STRING ? sizeof(TF_TString) : TF_DataTypeSize(dtype);
  TF_Tensor* taken = TF_AllocateTensor(dtype, shape.data(), shape.size(), size * width * bytes);
  size_t part = 0;
  int64_t first = 0;  // row of `taken` in which `part` begins
  for (int64_t row = 0; row < size; ++row) {
    while (part < parts.size() && row - first >= TF_Dim(parts[part], 0)) {
      first += TF_Dim(parts[part++], 0);
    }
    const bool is_padding = part == parts.size();
    const TF_Tensor* given = is_padding ? parts.back() : parts[part];
    const int64_t place = is_padding ? 0 : row - first;
    const char* from = static_cast<const char*>(TF_TensorData(given)) + place * width * bytes;
    char* to = static_cast<char*>(TF_TensorData(taken)) + row * width * bytes;
    if (dtype != TF_STRING) {
      std::memcpy(to, from, width * bytes);
      continue;
    }
    for (int64_t i = 0; i < width; ++i) {
      const auto* text = reinterpret_cast<const TF_TString*>(from) + i;
      auto* copy = reinterpret_cast<TF_TString*>(to) + i;
      TF_StringInit(copy);
      TF_StringCopy(copy, TF_StringGetDataPointer(text), TF_StringGetSize(text));
    }
  }
  return taken;
}

// Returns the rows of all in one request, as TF Serving's batcher joins them: padded to an allowed
// size, here a power of two, with the first row of the last request.
Request Join(const std::vector<Request>& requests) {
  int64_t rows = 0, size = 1;
  for (const Request& request : requests) rows += request.rows();
  while (size <= rows) size *= 2;
  Request joined{requests[0].signature};
  for (Tensors Request::*side : {&Request::inputs, &Request::response}) {
    for (const auto& [name, tensor] : requests[0].*side) {
      std::vector<TF_Tensor*> parts;
      for (const Request& request : requests) parts.push_back((request.*side).at(name));
      (joined.*side)[name] = TakeRows(parts, size);
    }
  }
  return joined;
}

Request WithoutRows(Request request) {
  for (Tensors Request::*side : {&Request::inputs, &Request::response}) {
    for (auto& [name, tensor] : request.*side) tensor = TakeRows({tensor}, 0);
  }
  return request;
}

bool IsRefusedWhenDamaged(const Model& model, Request request, const std::string& input) {
  TF_Tensor*& tensor = request.inputs.at(input);
  tensor = TakeRows({tensor}, TF_Dim(tensor, 0));
  const std::string damaged = "not an Example";
  TF_StringCopy(static_cast<TF_TString*>(TF_TensorData(tensor)), damaged.data(), damaged.size());
  std::vector<TF_Tensor*> outputs;
  return Run(model, request, &outputs) == TF_INVALID_ARGUMENT;
}

int main(int argc, char** argv) {
  Check(argc > 2, "Usage: load_saved_model EXPORT_DIR REQUESTS...");
  std::vector<Request> requests;
  std::map<std::string, std::vector<Request>> by_signature;
  for (int place = 2; place < argc; ++place) {
    for (const Request& request : ReadRequests(argv[place])) {
      requests.push_back(request);
      by_signature[request.signature].push_back(request);
    }
  }
  const Model model = Load(argv[1]);
  bool passed = true;
  const auto report = [&](const std::string& check, const std::string& signature, int64_t rows,
                          double difference) {
    std::cout << check << ' ' << signature << ' ' << rows << ' ' << difference << '\n';
    passed = passed && difference <= kTolerance;
  };
  const auto compare = [&](const std::string& check, const Request& request) {
    report(check, request.signature, request.rows(), RunAndCompare(model, request));
  };

  for (const Request& request : requests) compare("replay", request);
  for (double difference : RunInThreads(model, requests)) {
    report("thread", "all", kRounds * requests.size(), difference);
  }
  for (auto& [signature, group] : by_signature) {
    compare("batch", Join(group));
    std::reverse(group.begin(), group.end());
    compare("batch", Join(group));
    compare("empty", WithoutRows(group[0]));
    if (signature == "predict_tensors") continue;  // takes no Examples
    for (const auto& [name, tensor] : group[0].inputs) {
      const bool refused = IsRefusedWhenDamaged(model, group[0], name);
      report("malformed", signature + "." + name, group[0].rows(), refused ? 0 : INFINITY);
      compare("afterwards", group[0]);
    }
  }
  return passed ? 0 : 1;
}
