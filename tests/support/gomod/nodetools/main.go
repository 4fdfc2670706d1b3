// Command nodetools is what a node without registry images needs beside our own: the container that holds a pod's
// network ("pause"), and a proxy that ends TLS as an Ingress controller does ("ingress").
package main

import (
	"context"
	"flag"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "ingress" {
		ingress(os.Args[2:])
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}

func ingress(arguments []string) {
	flags := flag.NewFlagSet("ingress", flag.ExitOnError)
	listen := flags.String("listen", ":8443", "address")
	cert := flags.String("cert", "", "file of the certificate")
	key := flags.String("key", "", "file of the certificate's key")
	to := flags.String("to", "", "base URL of the Service behind")
	flags.Parse(arguments)
	target, err := url.Parse(*to)
	if err != nil {
		log.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(request *httputil.ProxyRequest) {
			request.SetURL(target)
			request.Out.Host = request.In.Host
			request.SetXForwarded()
		},
		FlushInterval: -1, // live answers must not be held back
	}
	server := &http.Server{Addr: *listen, Handler: proxy}
	stop, stopped := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-stop // whose answers are on their way get them whole, as from any real controller
		limit, cancel := context.WithTimeout(context.Background(), 25*time.Second)
		defer cancel()
		server.Shutdown(limit)
		close(stopped)
	}()
	if err := server.ListenAndServeTLS(*cert, *key); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-stopped
}
