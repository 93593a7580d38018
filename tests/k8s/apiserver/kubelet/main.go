// SPDX-License-Identifier: Apache-2.0

// The kubelet's port-forward over TLS, as it is in kubelets and container runtimes, without the
// rest: every port of every pod is one port of this machine. Prints its own port.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubelet/pkg/cri/streaming/portforward"
)

type forwarder struct{ port string }

func (f forwarder) PortForward(_ context.Context, _ string, _ types.UID, _ int32, client io.ReadWriteCloser) error {
	defer client.Close()
	server, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", f.port))
	if err != nil {
		return err
	}
	defer server.Close()
	go io.Copy(server, client)
	_, err = io.Copy(client, server)
	return err
}

func main() {
	handler := func(w http.ResponseWriter, r *http.Request) {
		options, err := portforward.NewV4Options(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		log.Print(r.URL.Path)
		portforward.ServePortForward(w, r, forwarder{os.Args[1]}, path.Base(r.URL.Path), "", options,
			time.Minute, 30*time.Second, portforward.SupportedProtocols)
	}
	server := httptest.NewTLSServer(http.HandlerFunc(handler))
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	fmt.Println(port)
	select {}
}
