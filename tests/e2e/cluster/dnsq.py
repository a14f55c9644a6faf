"""dnsq.py SERVER NAME: the IPv4 address of a name, asked of one DNS server. The machine need not have dig."""
import socket
import struct
import sys

server, name = sys.argv[1:]
labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
# Identifier 1, recursion desired, one question; type A, class IN.
question = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.settimeout(1)
    udp.sendto(question, (server, 53))
    answer = udp.recv(512)
if answer[3] & 0x0F:
    sys.exit(f"refused with code {answer[3] & 0x0F}")
# The address of the last answer is the message's end: the server adds no other records.
print(socket.inet_ntoa(answer[-4:]))
