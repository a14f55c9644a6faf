#!/bin/bash
# certs.sh DIR NODE NODE_IP SERVICE_IP: a CA, its certificates and kubeconfigs, once per cluster
set -eu; umask 077; D=$1 NODE=$2 NODE_IP=$3 SVC_IP=$4; mkdir -p "$D"; cd "$D"
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
ca() { key "$1"; openssl req -x509 -new -key "$1.key" -subj "/CN=$2" -days 3650 -out "$1.crt" \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,digitalSignature; }
# cert NAME CA SUBJECT USAGE [SAN]
cert() { key "$1"; openssl req -new -key "$1.key" -subj "$3" -out "$1.csr"
  { echo "basicConstraints=CA:FALSE"; echo "keyUsage=digitalSignature"; echo "extendedKeyUsage=$4"; [ -z "${5:-}" ] || echo "subjectAltName=$5"; } > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA "$2.crt" -CAkey "$2.key" -CAcreateserial -days 3650 -extfile "$1.ext" -out "$1.crt" 2>/dev/null; rm "$1.csr" "$1.ext"; }
kubeconfig() { cat > "$1.kubeconfig" <<E
apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: u, user: {client-certificate-data: $(base64 -w0 $1.crt), client-key-data: $(base64 -w0 $1.key)}}]
contexts: [{name: e2e, context: {cluster: e2e, user: u}}]
current-context: e2e
E
}
ca ca kubernetes-ca; ca front-proxy-ca front-proxy-ca; ca etcd-ca etcd-ca
openssl genrsa -out sa.key 2048 2>/dev/null; openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
cert apiserver ca /CN=kube-apiserver serverAuth "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:$NODE_IP,IP:$SVC_IP"
cert apiserver-kubelet-client ca /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
cert kubelet-server ca "/O=system:nodes/CN=system:node:$NODE" serverAuth "DNS:$NODE,IP:$NODE_IP,IP:127.0.0.1"
cert front-proxy-client front-proxy-ca /CN=front-proxy-client clientAuth
cert etcd etcd-ca /CN=etcd serverAuth,clientAuth "DNS:localhost,IP:127.0.0.1"
cert admin ca /O=system:masters/CN=admin clientAuth; kubeconfig admin
cert controller-manager ca /CN=system:kube-controller-manager clientAuth; kubeconfig controller-manager
cert scheduler ca /CN=system:kube-scheduler clientAuth; kubeconfig scheduler
cert proxy ca /CN=system:kube-proxy clientAuth; kubeconfig proxy
cert kubelet ca "/O=system:nodes/CN=system:node:$NODE" clientAuth; kubeconfig kubelet
