// echo is the suite's application: a server that says who answered, and a client that counts.
//
//	echo [flags]              serves HTTP/1.1 and h2c, gRPC, and a server-first TCP protocol
//	echo client [flags] URL   sends requests and prints one line of JSON with the counts
//	echo version              prints VERSION
//	echo ledger FOLDER        counts the ids in the ledgers of servers (LEDGER), and those that came twice
//	echo dns ZONE ADDRESS     resolves all names below a zone to an address, and asks the resolver of its pod for others
//
// `echo -h` and `echo client -h` list the flags.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "client":
			os.Exit(client(os.Args[2:]))
		case "ledger":
			os.Exit(countLedgers(os.Args[2:]))
		case "dns":
			fmt.Fprintln(os.Stderr, "echo dns:", serveDNS(os.Args[2:]))
			os.Exit(1)
		case "version":
			fmt.Println(os.Getenv("VERSION"))
			return
		}
	}
	if err := serve(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}
