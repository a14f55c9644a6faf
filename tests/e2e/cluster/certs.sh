#!/usr/bin/env bash
# certs.sh DIR NODE NODE_IP SERVICE_IP: the cluster's three CAs, its certificates and its kubeconfigs, made once per cluster.
set -euo pipefail
umask 077
directory=$1 node=$2 node_ip=$3 service_ip=$4
mkdir -p "$directory"
cd "$directory"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }

# ca NAME COMMON_NAME
ca() {
  key "$1"
  openssl req -x509 -new -key "$1.key" -subj "/CN=$2" -days 3650 -out "$1.crt" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,digitalSignature
}

# cert NAME CA SUBJECT USAGE [ALTERNATIVE_NAMES]
cert() {
  key "$1"
  {
    echo "basicConstraints=CA:FALSE"
    echo "keyUsage=digitalSignature"
    echo "extendedKeyUsage=$4"
    [ -z "${5:-}" ] || echo "subjectAltName=$5"
  } > "$1.ext"
  openssl req -new -key "$1.key" -subj "$3" \
    | openssl x509 -req -CA "$2.crt" -CAkey "$2.key" -CAcreateserial -days 3650 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
  rm "$1.ext"
}

# user NAME SUBJECT: a client of the API server, with its kubeconfig.
user() {
  cert "$1" ca "$2" clientAuth
  cat > "$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: u, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: e2e, context: {cluster: e2e, user: u}}]
current-context: e2e
YAML
}

ca ca kubernetes-ca
ca front-proxy-ca front-proxy-ca
ca etcd-ca etcd-ca

# The key of service account tokens.
openssl genrsa -out sa.key 2048 2>/dev/null
openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null

names=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost
cert apiserver ca /CN=kube-apiserver serverAuth "$names,IP:127.0.0.1,IP:$node_ip,IP:$service_ip"
cert apiserver-kubelet-client ca /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
cert kubelet-server ca "/O=system:nodes/CN=system:node:$node" serverAuth "DNS:$node,IP:$node_ip,IP:127.0.0.1"
cert front-proxy-client front-proxy-ca /CN=front-proxy-client clientAuth
cert etcd etcd-ca /CN=etcd serverAuth,clientAuth "DNS:localhost,IP:127.0.0.1"

user admin /O=system:masters/CN=admin
user controller-manager /CN=system:kube-controller-manager
user scheduler /CN=system:kube-scheduler
user proxy /CN=system:kube-proxy
# The last: up.sh waits for its file.
user kubelet "/O=system:nodes/CN=system:node:$node"
