"""Two gRPC servers that say who they are, and a client that finds them by `xds:///svc`.

Prints the servers' ports; then answers each line on standard input with the answer of one call."""
import sys
from concurrent import futures

import grpc


def serve(name):
    answer = grpc.unary_unary_rpc_method_handler(lambda request, context: name)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", {"Name": answer}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


servers = [serve(name) for name in (b"one", b"two")]
print(*(port for _, port in servers), flush=True)
channel = None
for line in sys.stdin:
    # Only now: the test has to learn the ports before it can say where `svc` is.
    channel = channel or grpc.insecure_channel("xds:///svc")
    try:
        print(channel.unary_unary("/t.T/Name")(b"", timeout=20, wait_for_ready=True).decode(), flush=True)
    except grpc.RpcError as error:
        print(error.code(), error.details(), flush=True)
