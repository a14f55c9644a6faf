#!/usr/bin/env bash
# Process 1 of the node: runs in mount, network, pid, uts, ipc and cgroup namespaces of its own (see up.sh). When it dies, the node dies with it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=$HEDDLE_CACHE state=$HEDDLE_E2E_STATE
name=e2e-node address=10.88.0.2

hostname "$name"
mount --make-rshared /

# A /sys of the node's own network namespace, with the cgroups as seen from the node's own.
controllers=$(awk -F: '$2 != "" {print $2}' /proc/self/cgroup)
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for controller in $controllers; do
  mkdir -p "/sys/fs/cgroup/${controller#name=}"
  case $controller in name=*) options=none,$controller ;; *) options=$controller ;; esac
  mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/${controller#name=}"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/netns

for directory in var/lib/kubelet var/lib/containerd var/lib/cni var/lib/etcd var/log etc/cni/net.d etc/kubernetes opt/cni/bin; do
  mkdir -p "/$directory" "$state/root/$directory"
  mount --bind "$state/root/$directory" "/$directory"
done
mount --make-rshared /
mkdir -p /var/log/pods /var/log/containers /var/log/components
cp -f "$cache"/bin/cni/* /opt/cni/bin/
cp "$here/conf/10-heddle.conflist" /etc/cni/net.d/
cp "$here"/conf/* /etc/kubernetes/
: > /etc/kubernetes/resolv.conf
[ -e /etc/kubernetes/pki/admin.kubeconfig ] || bash "$here/certs.sh" /etc/kubernetes/pki $name $address 10.96.0.1

# A veth pair within the namespace stands for the node's network; its default route leads nowhere, but a service's address needs
# one before it is rewritten.
ip link set lo up
ip link add node0 type veth peer name node1
ip addr add $address/24 dev node0
ip link set node0 up
ip link set node1 up
ip route add default via 10.88.0.1 dev node0
sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1

logs=/var/log/components pki=/etc/kubernetes/pki kube=$cache/bin/kube
run() { local component=$1; shift; "$@" >> "$logs/$component.log" 2>&1 & }

run containerd containerd -c /etc/kubernetes/containerd.toml
run etcd "$kube" etcd --name e2e --data-dir /var/lib/etcd --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 --initial-cluster e2e=http://127.0.0.1:2380 \
  --unsafe-no-fsync --log-level warn
run kube-apiserver "$kube" kube-apiserver --etcd-servers=http://127.0.0.1:2379 --advertise-address=$address --bind-address=0.0.0.0 --secure-port=6443 \
  --tls-cert-file=$pki/apiserver.crt --tls-private-key-file=$pki/apiserver.key --client-ca-file=$pki/ca.crt \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file=$pki/sa.pub --service-account-signing-key-file=$pki/sa.key \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true \
  --kubelet-client-certificate=$pki/apiserver-kubelet-client.crt --kubelet-client-key=$pki/apiserver-kubelet-client.key \
  --kubelet-certificate-authority=$pki/ca.crt --kubelet-preferred-address-types=InternalIP \
  --requestheader-client-ca-file=$pki/front-proxy-ca.crt --requestheader-allowed-names=front-proxy-client --requestheader-username-headers=X-Remote-User \
  --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra- \
  --proxy-client-cert-file=$pki/front-proxy-client.crt --proxy-client-key-file=$pki/front-proxy-client.key
# From the state's own directory: a socket's path may have no more than 107 characters.
cd "$state"
run relay socat UNIX-LISTEN:api.sock,fork,unlink-early TCP:127.0.0.1:6443

until ctr version > /dev/null 2>&1; do sleep 0.1; done
# The pause image must be there before the first pod is.
ctr -n k8s.io images import "$cache/images/pause.tar"
ctr -n k8s.io images import "$cache/images/coredns.tar"
until "$kube" kubectl --kubeconfig $pki/admin.kubeconfig get --raw /readyz > /dev/null 2>&1; do sleep 0.3; done

run kube-controller-manager "$kube" kube-controller-manager --kubeconfig=$pki/controller-manager.kubeconfig \
  --authentication-kubeconfig=$pki/controller-manager.kubeconfig --authorization-kubeconfig=$pki/controller-manager.kubeconfig \
  --bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials=true --root-ca-file=$pki/ca.crt \
  --service-account-private-key-file=$pki/sa.key --cluster-signing-cert-file=$pki/ca.crt --cluster-signing-key-file=$pki/ca.key \
  --allocate-node-cidrs=true --cluster-cidr=10.244.0.0/16 --service-cluster-ip-range=10.96.0.0/16 --requestheader-client-ca-file=$pki/front-proxy-ca.crt
run kube-scheduler "$kube" kube-scheduler --kubeconfig=$pki/scheduler.kubeconfig --authentication-kubeconfig=$pki/scheduler.kubeconfig \
  --authorization-kubeconfig=$pki/scheduler.kubeconfig --bind-address=127.0.0.1 --leader-elect=false
run kubelet "$kube" kubelet --config=/etc/kubernetes/kubelet.yaml --kubeconfig=$pki/kubelet.kubeconfig --hostname-override=$name --node-ip=$address \
  --node-labels=topology.kubernetes.io/zone=zone-a
run kube-proxy "$kube" kube-proxy --config=/etc/kubernetes/kube-proxy.yaml

# Reaps; a component that dies stays dead, and its log tells why.
while :; do wait -n || true; sleep 1; done
