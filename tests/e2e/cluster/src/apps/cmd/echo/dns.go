package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

// dnsAt is the address of the DNS server: a Service has port 53 for it.
const dnsAt = ":5353"

// patience bounds the wait for the resolver of the pod.
const patience = 3 * time.Second

// The parts of a message of DNS (RFC 1035, section 4): the bytes of its header, and the numbers of a type and a class.
const (
	dnsHeader = 12
	typeA     = 1
	classIN   = 1
)

// serveDNS answers queries over UDP: for names below a zone with one address of IPv4, for others as the resolver of its own pod does.
func serveDNS(args []string) error {
	if len(args) != 2 {
		return errors.New("name a zone and an address")
	}
	address, err := netip.ParseAddr(args[1])
	if err != nil {
		return err
	}
	if !address.Is4() {
		return fmt.Errorf("%s is not an address of IPv4", address)
	}
	upstream, err := resolver("/etc/resolv.conf")
	if err != nil {
		return err
	}
	socket, err := net.ListenPacket("udp", dnsAt)
	if err != nil {
		return err
	}
	for {
		buffer := make([]byte, 4096)
		n, from, err := socket.ReadFrom(buffer)
		if err != nil {
			return err
		}
		query := buffer[:n]
		if name, end, ok := question(query); ok && below(name, args[0]) {
			_, _ = socket.WriteTo(resolved(query[:end], address), from)
			continue
		}
		go func() {
			if response, err := ask(upstream, query); err == nil {
				_, _ = socket.WriteTo(response, from)
			}
		}()
	}
}

// resolver is the first server in a resolv.conf.
func resolver(file string) (string, error) {
	text, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer text.Close()
	for lines := bufio.NewScanner(text); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) > 1 && words[0] == "nameserver" {
			return net.JoinHostPort(words[1], "53"), nil
		}
	}
	return "", fmt.Errorf("%s has no nameserver", file)
}

// question is the name in a query of one question, in lower case, and the end of the question.
func question(query []byte) (string, int, bool) {
	if len(query) < dnsHeader || binary.BigEndian.Uint16(query[4:]) != 1 {
		return "", 0, false
	}
	var labels []string
	at := dnsHeader
	for at < len(query) && query[at] != 0 {
		end := at + 1 + int(query[at])
		if end > len(query) {
			return "", 0, false
		}
		labels = append(labels, strings.ToLower(string(query[at+1:end])))
		at = end
	}
	// The last label is empty; type and class follow.
	end := at + 1 + 4
	return strings.Join(labels, "."), end, end <= len(query)
}

func below(name, zone string) bool {
	return name == zone || strings.HasSuffix(name, "."+zone)
}

// resolved is the response to a query that ends with its question: the address, or no address of another type.
func resolved(query []byte, address netip.Addr) []byte {
	response := append([]byte(nil), query...)
	// A response, authoritative, with recursion, without an error.
	binary.BigEndian.PutUint16(response[2:], 0x8580)
	answers := uint16(0)
	if binary.BigEndian.Uint16(query[len(query)-4:]) == typeA {
		answers = 1
		// The name is that of the question; it holds for 5 s.
		response = append(response, 0xc0, dnsHeader, 0, typeA, 0, classIN, 0, 0, 0, 5, 0, 4)
		response = append(response, address.AsSlice()...)
	}
	binary.BigEndian.PutUint16(response[6:], answers)
	binary.BigEndian.PutUint16(response[8:], 0)
	binary.BigEndian.PutUint16(response[10:], 0)
	return response
}

// ask sends a query to a server as it is.
func ask(server string, query []byte) ([]byte, error) {
	connection, err := net.Dial("udp", server)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(patience))
	if _, err := connection.Write(query); err != nil {
		return nil, err
	}
	response := make([]byte, 4096)
	n, err := connection.Read(response)
	return response[:n], err
}
