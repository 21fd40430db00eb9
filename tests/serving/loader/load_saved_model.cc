// Loads an export by the function that TF Serving loads it with, and asks what clients may ask.
//
//   load_saved_model EXPORT_DIR REQUESTS...
//
// REQUESTS are TFRecord files of tensorflow.serving.PredictionLog, with requests and responses. A
// check prints lines of its name, the signature, the rows (of a thread: the requests) and the
// largest difference between what the session gives and the responses: infinite where it gives an
// error, another shape or NaN. The exit status is 0 if none is above 1e-6.

#include <algorithm>
#include <cmath>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "google/protobuf/unknown_field_set.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor_util.h"
#include "tensorflow/core/lib/io/record_reader.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/platform/logging.h"
#include "tensorflow/core/protobuf/named_tensor.pb.h"

using tensorflow::SavedModelBundle;
using tensorflow::Tensor;
using Tensors = std::map<std::string, Tensor>;

constexpr double kTolerance = 1e-6;
constexpr int kThreads = 8;
constexpr int kRounds = 5;

// Fields of tensorflow_serving/apis/*.proto, for which TensorFlow's wheel has no headers.
constexpr int kPredictLog = 6;              // of PredictionLog
constexpr int kRequest = 1, kResponse = 2;  // of PredictLog
constexpr int kModelSpec = 1, kInputs = 2;  // of PredictRequest
constexpr int kOutputs = 1;                 // of PredictResponse
constexpr int kSignatureName = 3;           // of ModelSpec

struct Request {
  std::string signature;
  Tensors inputs, response;

  int64_t rows() const { return response.begin()->second.dim_size(0); }
};

void CheckOk(const absl::Status& status) { CHECK(status.ok()) << status; }

std::vector<std::string> ReadFields(const std::string& message, int number) {
  google::protobuf::UnknownFieldSet fields;
  CHECK(fields.ParseFromString(message)) << "A record is no PredictionLog.";
  std::vector<std::string> found;
  for (int i = 0; i < fields.field_count(); ++i) {
    if (fields.field(i).number() == number) found.emplace_back(fields.field(i).length_delimited());
  }
  return found;
}

std::string ReadField(const std::string& message, int number) {
  return ReadFields(message, number).at(0);
}

// An entry of a map from names to tensors has the wire format of a NamedTensorProto.
Tensors ReadTensors(const std::string& message, int number) {
  Tensors tensors;
  for (const std::string& entry : ReadFields(message, number)) {
    tensorflow::NamedTensorProto named;
    CHECK(named.ParseFromString(entry) && tensors[named.name()].FromProto(named.tensor()));
  }
  return tensors;
}

std::vector<Request> ReadRequests(const std::string& path) {
  std::unique_ptr<tensorflow::RandomAccessFile> file;
  CheckOk(tensorflow::Env::Default()->NewRandomAccessFile(path, &file));
  tensorflow::io::SequentialRecordReader reader(file.get());
  std::vector<Request> requests;
  tensorflow::tstring record;
  absl::Status status;
  while ((status = reader.ReadRecord(&record)).ok()) {
    const std::string log = ReadField(record, kPredictLog);
    const std::string request = ReadField(log, kRequest);
    const std::string response = ReadField(log, kResponse);
    requests.push_back({ReadField(ReadField(request, kModelSpec), kSignatureName),
                        ReadTensors(request, kInputs), ReadTensors(response, kOutputs)});
  }
  CHECK(absl::IsOutOfRange(status)) << status;
  return requests;
}

// Gives the outputs in the order of the response.
absl::Status Run(const SavedModelBundle& bundle, const Request& request,
                 std::vector<Tensor>* outputs) {
  const auto& signature = bundle.GetSignatures().at(request.signature);
  std::vector<std::pair<std::string, Tensor>> fed;
  for (const auto& [name, tensor] : request.inputs) {
    fed.emplace_back(signature.inputs().at(name).name(), tensor);
  }
  std::vector<std::string> fetched;
  for (const auto& [name, info] : signature.outputs()) CHECK(request.response.count(name)) << name;
  for (const auto& [name, tensor] : request.response) {
    fetched.push_back(signature.outputs().at(name).name());
  }
  return bundle.session->Run(fed, fetched, {}, outputs);
}

double Difference(const Tensor& found, const Tensor& expected) {
  if (found.dtype() != expected.dtype() || found.shape() != expected.shape()) return INFINITY;
  const auto* left = static_cast<const float*>(found.data());
  const auto* right = static_cast<const float*>(expected.data());
  double largest = 0;
  for (int64_t i = 0; i < expected.NumElements(); ++i) {
    const double difference = std::abs(left[i] - right[i]);
    largest = std::isnan(difference) ? INFINITY : std::max(largest, difference);
  }
  return largest;
}

double RunAndCompare(const SavedModelBundle& bundle, const Request& request) {
  std::vector<Tensor> outputs;
  if (!Run(bundle, request, &outputs).ok()) return INFINITY;
  double largest = 0;
  auto found = outputs.begin();
  for (const auto& [name, expected] : request.response) {
    largest = std::max(largest, Difference(*found++, expected));
  }
  return largest;
}

// Returns the largest difference of each thread.
std::vector<double> RunInThreads(const SavedModelBundle& bundle,
                                 const std::vector<Request>& requests) {
  std::vector<double> largest(kThreads, 0);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (size_t run = 0; run < kRounds * requests.size(); ++run) {
        const Request& request = requests[(run + thread) % requests.size()];
        largest[thread] = std::max(largest[thread], RunAndCompare(bundle, request));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return largest;
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
      std::vector<Tensor> parts;
      for (const Request& request : requests) parts.push_back((request.*side).at(name));
      parts.insert(parts.end(), size - rows, parts.back().Slice(0, 1));
      CheckOk(tensorflow::tensor::Concat(parts, &(joined.*side)[name]));
    }
  }
  return joined;
}

Request WithoutRows(Request request) {
  for (Tensors Request::*side : {&Request::inputs, &Request::response}) {
    for (auto& [name, tensor] : request.*side) tensor = tensor.Slice(0, 0);
  }
  return request;
}

bool IsRefusedWhenDamaged(const SavedModelBundle& bundle, Request request,
                          const std::string& input) {
  Tensor& tensor = request.inputs.at(input);
  tensor = tensorflow::tensor::DeepCopy(tensor);
  static_cast<tensorflow::tstring*>(tensor.data())[0] = "not an Example";
  std::vector<Tensor> outputs;
  return absl::IsInvalidArgument(Run(bundle, request, &outputs));
}

int main(int argc, char** argv) {
  CHECK(argc > 2) << "Usage: load_saved_model EXPORT_DIR REQUESTS...";
  std::vector<Request> requests;
  std::map<std::string, std::vector<Request>> by_signature;
  for (int place = 2; place < argc; ++place) {
    for (const Request& request : ReadRequests(argv[place])) {
      requests.push_back(request);
      by_signature[request.signature].push_back(request);
    }
  }
  SavedModelBundle bundle;
  CheckOk(tensorflow::LoadSavedModel({}, {}, argv[1], {"serve"}, &bundle));
  bool passed = true;
  const auto report = [&](const std::string& check, const std::string& signature, int64_t rows,
                          double difference) {
    std::cout << check << ' ' << signature << ' ' << rows << ' ' << difference << '\n';
    passed = passed && difference <= kTolerance;
  };
  const auto compare = [&](const std::string& check, const Request& request) {
    report(check, request.signature, request.rows(), RunAndCompare(bundle, request));
  };

  for (const Request& request : requests) compare("replay", request);
  for (double difference : RunInThreads(bundle, requests)) {
    report("thread", "all", kRounds * requests.size(), difference);
  }
  for (auto& [signature, group] : by_signature) {
    compare("batch", Join(group));
    std::reverse(group.begin(), group.end());
    compare("batch", Join(group));
    compare("empty", WithoutRows(group[0]));
    if (signature == "predict_tensors") continue;  // takes no Examples
    for (const auto& [name, tensor] : group[0].inputs) {
      const bool refused = IsRefusedWhenDamaged(bundle, group[0], name);
      report("malformed", signature + "." + name, group[0].rows(), refused ? 0 : INFINITY);
      compare("afterwards", group[0]);
    }
  }
  return passed ? 0 : 1;
}
