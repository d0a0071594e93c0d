#!/bin/bash
# Kubernetes' own kubelet as a service beside Berth, both of which leave cgroups to systemd: pods from files, since
# there is no control plane, judged by what the kubelet says of them and by what is on the node.
. "${0%/*}/lib.sh"

MANIFESTS=/etc/kubernetes/manifests
NODE=$(hostname)
install -m 755 /host/kubelet /usr/local/bin/kubelet
install -d $MANIFESTS /var/lib/kubelet
# A node has an address, and processors have a clock: the kubelet does without neither.
ip link add node type dummy
ip address add 192.0.2.1/24 dev node
ip link set node up
ip route add default dev node
grep -q 'cpu MHz' /proc/cpuinfo || {
	sed 's/^processor.*/&\ncpu MHz\t\t: 1000.000/' /proc/cpuinfo >"$ROOM/cpuinfo"
	mount --bind "$ROOM/cpuinfo" /proc/cpuinfo
}
# Who makes cgroups it is not told: it asks the runtime.
jq -n --arg manifests $MANIFESTS '{apiVersion: "kubelet.config.k8s.io/v1beta1", kind: "KubeletConfiguration",
	containerRuntimeEndpoint: "unix:///run/berth/berth.sock", staticPodPath: $manifests, readOnlyPort: 10255,
	authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}, authorization: {mode: "AlwaysAllow"},
	failSwapOn: false, evictionHard: {"memory.available": "50Mi"}, imageGCHighThresholdPercent: 100,
	crashLoopBackOff: {maxContainerRestartPeriod: "2s"}}' >/var/lib/kubelet/config.yaml
printf '[Service]\nExecStart=/usr/local/bin/kubelet --config=%s --node-ip=192.0.2.1\nRestart=always\nRestartSec=1\n' \
	/var/lib/kubelet/config.yaml >/etc/systemd/system/kubelet.service
printf '[crio.runtime]\ndefault_runtime = "%s"\n' "${RUNTIME:-crun}" >/etc/berth/berth.conf.d/runtime.conf
systemctl daemon-reload
systemctl restart berth
serving
start_berth
systemctl start kubelet
asked() { busybox wget -q -O- "http://127.0.0.1:10255/$1"; }
until_ok 60 asked healthz
is 'the kubelet is well' "$(asked healthz)" ok

manifest() { # NAME CONTAINER [SPEC]: a pod of a container; both are JSON
	jq -n --arg name "$1" --arg image $IMAGE --argjson container "$2" --argjson spec "${3:-"{}"}" '{apiVersion: "v1",
		kind: "Pod", metadata: {name: $name, namespace: "default"}, spec: ({terminationGracePeriodSeconds: 1,
		containers: [{name: "box", image: $image, imagePullPolicy: "Never"} * $container]} * $spec)}' >"$ROOM/manifest"
	mv "$ROOM/manifest" "$MANIFESTS/$1.json"
}
said() { # POD JQ: of a pod, as the kubelet has it
	asked pods | jq -r --arg name "$1-$NODE" ".items[]? | select(.metadata.name == \$name) | $2"
}
is_ready() { [ "$(said "$1" '.status.conditions[]? | select(.type == "Ready").status')" = True ]; }
first() { said "$1" '.status.containerStatuses[0].containerID' | cut -d/ -f3; }
pod_slice() { # POD CLASS: where the kubelet has a pod, whose UID is a digest of its file
	local uid
	uid=$(said "$1" '.metadata.uid' | tr - _)
	echo "$CGROUPS/kubepods.slice${2:+/kubepods-$2.slice}/kubepods${2:+-$2}-pod$uid.slice"
}

serve='["sh", "-c", "echo one; echo two >&2; echo hooked >/work/steps; exec httpd -f -p 8080 -h /work"]'
work='"volumeMounts": [{"name": "work", "mountPath": "/work"}]'
# Of which none fails because the machine is busy, and the pod has a fifth of it.
patience='"periodSeconds": 1, "timeoutSeconds": 30'
probes='"readinessProbe": {"httpGet": {"path": "/steps", "port": 8080}, '$patience'},
	"livenessProbe": {"exec": {"command": ["test", "-e", "/work/steps"]}, '$patience'}'
volumes='{"volumes": [{"name": "work", "emptyDir": {}}]}'
manifest sure "{\"command\": $serve, $work, $probes, \"resources\": {
	\"limits\": {\"cpu\": \"200m\", \"memory\": \"48Mi\"}}}" "$volumes"
manifest some "{\"command\": $serve, $work, $probes, \"resources\": {
	\"requests\": {\"cpu\": \"100m\"}, \"limits\": {\"memory\": \"64Mi\"}}}" "$volumes"
manifest best "{\"command\": $serve, $work, $probes}" "$volumes"
for pod in sure some best; do
	until_ok 120 is_ready $pod
	is "$pod is Ready, by its probes" "$? $(said $pod .status.phase)" '0 Running'
done
is 'and it was made once' "$(asked pods | jq '[.items[].status.containerStatuses[].restartCount] | add')" 0
for class in sure: some:burstable best:besteffort; do
	pod=${class%:*}
	has "$pod is where its class is" "$(scope_of "$(first "$pod")")" "$(pod_slice "$pod" "${class#*:}")/crio-"
done
sure=$(scope_of "$(first sure)")
is 'its limits are in force' "$(cat "$sure/cpu.max" "$sure/memory.max" | paste -sd' ')" '20000 100000 50331648'
is "and those of its pod" "$(cat "${sure%/*}/cpu.max" "${sure%/*}/memory.max" | paste -sd' ')" '20000 100000 50331648'
is 'who asks for nothing has the least of shares' "$(cat "$(scope_of "$(first best)")/cpu.weight")" 1
is 'a pod is served by its address' "$(busybox wget -q -O- "http://$(said best .status.podIP):8080/steps")" hooked
soon 'its log is where the kubelet links to' \
	"sed 's/^[^ ]* //' /var/log/containers/best-${NODE}_default_box-*.log | sort | paste -sd';'" \
	'stderr F two;stdout F one'

manifest eater '{"command": ["sh", "-c", "sleep 1; tail /dev/zero"], "resources": {"limits": {"memory": "16Mi"}}}'
killed='.status.containerStatuses[0] | (.lastState.terminated, .state.terminated) |
	select(.reason == "OOMKilled").exitCode'
until_ok 60 eval 'said eater "$killed" | grep -q 137'
has 'the kubelet is told who ran out of memory' "$(said eater "$killed")" 137
until_ok 60 eval '[ "$(said eater ".status.containerStatuses[0].restartCount")" -gt 1 ]'
is 'and starts it again' $? 0
rm $MANIFESTS/eater.json

series='container_memory_working_set_bytes{container="box",[^}]*pod="best-'
until_ok 90 eval 'asked metrics/cadvisor | grep -q "^$series.*} [1-9]"'
is 'cAdvisor knows its container by its pod' $? 0
received='.pods[] | select(.podRef.name | startswith("best-")) | .network.rxBytes // 0'
until_ok 90 eval '[ "$(asked stats/summary | jq "$received")" -gt 0 ]'
is 'and the summary has what came over its network' $? 0

everyone() { for pod in sure some best; do first $pod; done | paste -sd' '; }
before=$(everyone)
systemctl kill --signal=KILL berth kubelet
serving
until_ok 60 asked healthz
for pod in sure some best; do until_ok 60 is_ready $pod; done
is 'both are killed, and the pods stay as they are' "$(everyone)" "$before"

rm $MANIFESTS/*.json
pod_slices() { systemctl list-units --no-legend --no-pager 'kubepods*-pod*.slice'; }
gone() { [ "$(crictl pods -q | wc -l)$(pod_slices | wc -l)" = 00 ]; }
until_ok 180 gone
is 'they go with their files' "$(crictl pods -q | wc -l) $(crictl ps -aq | wc -l)" '0 0'
soon 'and so do their slices' 'pod_slices | wc -l' 0
soon 'their scopes' 'scopes | wc -l' 0
is 'their mounts' "$(grep -c -e /berth/ -e /kubelet/pods/ /proc/self/mountinfo)" 0
systemctl stop kubelet
