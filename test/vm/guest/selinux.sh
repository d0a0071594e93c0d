#!/bin/bash
# Labels as the kernel has them, by Debian's policy, on a node with SELinux, and what they are good for: the policy is
# enforced for containers, while Berth and the rest of the machine are permissive (../selinux/berth.cil).
. "${0%/*}/lib.sh"

# Each refusal is told.
echo 0 >/proc/sys/kernel/printk_ratelimit
restorecon -RF /usr/lib/berth /usr/bin /etc/berth
echo 1 >/sys/fs/selinux/enforce
# What the host sees has no labels, and nobody may make a file there; how a suite ends is one.
trap 'echo 0 >/sys/fs/selinux/enforce' EXIT
start_berth
contexts=/etc/selinux/default/contexts/lxc_contexts
process=$(sed -n 's/^process = "\(.*\)"$/\1/p' $contexts)
file=$(sed -n 's/^file = "\(.*\)"$/\1/p' $contexts)
echo "selinux: the policy says $process and $file; enforce is $(cat /sys/fs/selinux/enforce)"
configure() { # TOML: what is in force from here on
	mkdir -p /etc/berth/berth.conf.d
	echo "$1" >/etc/berth/berth.conf.d/50-test.conf
	systemctl restart berth
	serving
}
label_of() { tr -d '\0' <"/proc/$(pid_of "$1")/attr/current"; }
type_of() { cut -d: -f1-3 <<<"$1"; }
level_of() { cut -d: -f4- <<<"$1"; }
file_label() { getfattr --absolute-names --only-values -n security.selinux "$1" | tr -d '\0'; }

one=$(pod one '{"cgroup_parent": "kubepods-podone.slice"}')
other=$(pod other '{"cgroup_parent": "kubepods-podother.slice"}')
first=$(run "$one" one first)
need 'a container' "$first"
label=$(label_of "$first")
is 'a container has the type of the policy' "$(type_of "$label")" "$(type_of "$process")"
is 'and a pair of categories' "$(grep -cE '^s0:c[0-9]+,c[0-9]+$' <<<"$(level_of "$label")")" 1
is 'a container of the same pod has the same' "$(label_of "$(run "$one" one second)")" "$label"
isnt 'one of another pod has others' "$(level_of "$(label_of "$(run "$other" other third)")")" "$(level_of "$label")"
is 'a command in it has its label' "$(crictl exec "$first" cat /proc/self/attr/current | tr -d '\0\n')" "$label"
is 'its root has the label of files, with its categories' \
	"$(stat -c %C "/proc/$(pid_of "$first")/root/bin")" \
	"$(type_of "$file"):$(level_of "$label")"
named=$(run "$one" one named '["sleep", "1000"]' '{"linux": {"security_context": {"selinux_options": {
	"user": "system_u", "role": "system_r", "type": "unconfined_t", "level": "s0:c7,c9"}}}}')
is 'options are what is asked for' "$(label_of "$named")" system_u:system_r:unconfined_t:s0:c7,c9

for name in asked kept; do
	mkdir -p "/srv/$name/below"
	setfattr -n security.selinux -v system_u:object_r:var_t:s0 "/srv/$name" "/srv/$name/below"
done
volumes=$(run "$one" one volumes '["sleep", "1000"]' '{"mounts": [
	{"container_path": "/asked", "host_path": "/srv/asked", "selinux_relabel": true},
	{"container_path": "/kept", "host_path": "/srv/kept"}]}')
need 'a container with volumes' "$volumes"
is 'a volume that asks for it gets the label of its pod, whole' \
	"$(file_label /srv/asked) $(file_label /srv/asked/below)" \
	"$(type_of "$file"):$(level_of "$label") $(type_of "$file"):$(level_of "$label")"
is 'another keeps its own' "$(file_label /srv/kept/below)" system_u:object_r:var_t:s0
is '/dev/shm of the pod, too' "$(stat -c %C "/run/berth/sandboxes/$one/shm")" "$(type_of "$file"):$(level_of "$label")"
for path in resolv.conf hostname hosts; do
	is "$path of the pod has the label of its files" "$(file_label "/run/berth/sandboxes/$one/$path")" \
		"$(type_of "$file"):$(level_of "$label")"
done

domain() { cut -d: -f3 "/proc/$1/attr/current"; }
is 'Berth is in the domain of CRI-O' "$(domain "$(systemctl show -p MainPID --value berth)")" crio_t
is 'and so is a monitor' "$(domain "$(cat "/run/berth/containers/$first/conmon.pid")")" crio_conmon_t

# What the labels are for. Root in a container has all rights by file modes.
is 'the policy is enforced' "$(cat /sys/fs/selinux/enforce)" 1
for name in asked kept; do
	echo "$name" >"/srv/$name/below/note"
	chmod 666 "/srv/$name/below/note"
done
setfattr -n security.selinux -v "$(file_label /srv/asked)" /srv/asked/below/note
setfattr -n security.selinux -v system_u:object_r:var_t:s0 /srv/kept/below/note
inside() { crictl exec "$@" 2>&1; }
is 'a container reads a volume that was labelled for it' "$(inside "$volumes" cat /asked/below/note)" asked
is 'and writes it' \
	"$(inside "$volumes" sh -c 'echo more >>/asked/below/note && cat /asked/below/note' | paste -sd' ')" 'asked more'
denied() { dmesg | grep -E "avc: +denied.*$1" | tail -n 1; }
has 'not one of the host' "$(inside "$volumes" cat /kept/below/note)" 'Permission denied'
until_ok 30 eval "denied 'scontext=[^ ]*:container_t:[^ ]* tcontext=[^ ]*:var_t:' | grep -q ."
has 'which the kernel tells' "$(denied 'scontext=[^ ]*:container_t:[^ ]* tcontext=[^ ]*:var_t:')" permissive=0
stranger=$(run "$other" other stranger '["sleep", "1000"]' '{"mounts": [
	{"container_path": "/asked", "host_path": "/srv/asked"}]}')
need 'a container with the volume of another pod' "$stranger"
has 'nor one of another pod, whose categories it has not' "$(inside "$stranger" cat /asked/below/note)" \
	'Permission denied'
is 'its own root, /dev/shm and names it can use' "$(inside "$first" sh -c \
	'echo mine >/mine && echo shm >/dev/shm/x && cat /mine /dev/shm/x /etc/hostname >/dev/null && echo fine')" fine

artifact() { # DIRECTORY NAME: an OCI layout with an artifact of one file
	local config layer manifest
	mkdir -p "$1/blobs/sha256"
	put() {
		cat >"$1/new"
		mv "$1/new" "$1/blobs/sha256/$(digest <"$1/new")"
	}
	size() { stat -c %s "$1/blobs/sha256/$2"; }
	digest() { sha256sum | cut -c-64; }
	config=$(printf '{}' | digest) && printf '{}' | put "$1"
	layer=$(echo weights | digest) && echo weights | put "$1"
	jq -nc --arg config "sha256:$config" --arg layer "sha256:$layer" '{schemaVersion: 2,
		mediaType: "application/vnd.oci.image.manifest.v1+json", artifactType: "application/vnd.example.model",
		config: {mediaType: "application/vnd.oci.empty.v1+json", digest: $config, size: 2},
		layers: [{mediaType: "application/octet-stream", digest: $layer, size: 8,
			annotations: {"org.opencontainers.image.title": "model.bin"}}]}' >"$1/manifest"
	manifest=$(digest <"$1/manifest") && put "$1" <"$1/manifest"
	jq -nc --arg manifest "sha256:$manifest" --argjson size "$(size "$1" "$manifest")" --arg name "$2" \
		'{schemaVersion: 2, manifests: [{mediaType: "application/vnd.oci.image.manifest.v1+json",
			digest: $manifest, size: $size, annotations: {"org.opencontainers.image.ref.name": $name}}]}' >"$1/index.json"
	echo '{"imageLayoutVersion": "1.0.0"}' >"$1/oci-layout"
}
artifact "$ROOM/artifact" localhost/models/small:1
berth import "$ROOM/artifact" localhost/models/small:1 >/dev/null
model=$(run "$one" one model '["sleep", "1000"]' '{"mounts": [
	{"container_path": "/model", "readonly": true, "image": {"image": "localhost/models/small:1"}}]}')
need 'a container with an artifact' "$model"
is 'an artifact has the label of the pod' "$(stat -c %C "/proc/$(pid_of "$model")/root/model" \
	"/proc/$(pid_of "$model")/root/model/model.bin" | sort -u)" "$(type_of "$file"):$(level_of "$label")"
is 'and is read' "$(inside "$model" cat /model/model.bin)" weights

setfattr -n security.selinux -v "$(type_of "$file"):$(level_of "$label")" /srv/asked
configure "[crio.runtime.runtimes.${RUNTIME:-crun}]
allowed_annotations = [\"try-skip-volume-selinux-label.crio.io\"]"
skipping=$(pod skipping '{"security_context": {"selinux_options": {"level": "'"$(level_of "$label")"'"}}}' \
	'{"annotations": {"try-skip-volume-selinux-label.crio.io": "true"}}')
setfattr -n security.selinux -v system_u:object_r:var_t:s0 /srv/asked/below
need 'a container that looks at the top of its volume' "$(run "$skipping" skipping skipping '["sleep", "1000"]' \
	'{"mounts": [{"container_path": "/asked", "host_path": "/srv/asked", "selinux_relabel": true}]}')"
is 'a volume whose top has the label is not labelled again, where an annotation says so' \
	"$(file_label /srv/asked/below)" system_u:object_r:var_t:s0

host_network='{"security_context": {"namespace_options": {"network": 2}}}'
mine=$(tr -d '\0' </proc/1/attr/current)
hosts=$(run "$(pod hosts "$host_network")" hosts hosts)
isnt 'hostnetwork_disable_selinux, a pod on the network of the host has no label of containers' \
	"$(type_of "$(label_of "$hosts")")" "$(type_of "$process")"
configure '[crio.runtime]
hostnetwork_disable_selinux = false'
labelled=$(run "$(pod labelled "$host_network")" labelled labelled)
is 'hostnetwork_disable_selinux = false, it has one' "$(type_of "$(label_of "$labelled")")" "$(type_of "$process")"
configure '[crio.runtime]
selinux = false'
bare=$(run "$(pod bare)" bare bare)
isnt 'selinux = false, a container has no label of containers' \
	"$(type_of "$(label_of "$bare")")" "$(type_of "$process")"
echo "selinux: labels of processes: init $mine, host network $(label_of "$hosts"), selinux off $(label_of "$bare")"
rm /etc/berth/berth.conf.d/50-test.conf

echo 'selinux: what Berth does that the policy has no rule for:'
dmesg | grep 'avc: *denied.*scontext=[^ ]*:crio' | sed 's/.*denied *\({[^}]*}\).*scontext=/\1 /' |
	sed -n 's/\({.*}\) [^ ]*:\(crio[a-z_]*\):.*tcontext=[^ ]*:\([a-z_]*_t\):.*tclass=\([a-z0-9_]*\).*/\2 \3 \4 \1/p' |
	sort | uniq -c

systemctl restart berth
serving
is 'after a restart a new container has the label of its pod' "$(label_of "$(run "$one" one later)")" "$label"
crictl rmp -fa >/dev/null 2>&1
