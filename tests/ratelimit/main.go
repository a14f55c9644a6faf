// The rate limit service of the Envoy project as it is published, with a store that speaks Redis' protocol in the same process.
// The variables of the environment are those of the service.
package main

import (
	"os"

	"github.com/alicebob/miniredis/v2"
	"github.com/envoyproxy/ratelimit/src/service_cmd/runner"
	"github.com/envoyproxy/ratelimit/src/settings"
	"github.com/sirupsen/logrus"
)

func main() {
	store, err := miniredis.Run()
	if err != nil {
		logrus.Fatal(err)
	}
	os.Setenv("REDIS_SOCKET_TYPE", "tcp")
	os.Setenv("REDIS_URL", store.Addr())
	service := runner.NewRunner(settings.NewSettings())
	service.Run()
}
