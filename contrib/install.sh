#!/bin/sh
# Installs Berth from the directory that this script is in, or takes it away again.
#
#   ./install.sh [--prefix DIR] [--sysconfdir DIR] [--destdir DIR]     default prefix /usr/local, sysconfdir /etc
#   ./install.sh --uninstall [the same]                                configuration and data stay
#
# It starts nothing: systemctl daemon-reload && systemctl enable --now berth
set -eu

prefix=/usr/local
sysconfdir=/etc
destdir=
action=install
while [ $# -gt 0 ]; do
	case $1 in
	--prefix) prefix=$2 && shift ;;
	--sysconfdir) sysconfdir=$2 && shift ;;
	--destdir) destdir=$2 && shift ;;
	--uninstall) action=uninstall ;;
	*)
		sed -n 's/^# \{0,1\}//p' "$0" | sed -n '2,7p' >&2
		exit 2
		;;
	esac
	shift
done
case $prefix:$sysconfdir in
/*:/*) ;;
*)
	echo "install.sh: --prefix and --sysconfdir are absolute paths; --destdir goes before them" >&2
	exit 2
	;;
esac
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
home=$destdir$prefix/lib/berth
list=$home/installed-files

remove() {
	[ -e "$list" ] || return 0
	mv -- "$list" "$list.old"
	while read -r path; do
		rm -f -- "$destdir$prefix/$path"
		# And its directories, as far as they are empty now.
		(cd "$destdir$prefix" && rmdir -p --ignore-fail-on-non-empty -- "$(dirname "$path")" 2>/dev/null) || true
	done <"$list.old"
	rm -rf -- "$list.old" "$home/cache"
	(cd "$destdir$prefix" && rmdir -p --ignore-fail-on-non-empty -- lib/berth 2>/dev/null) || true
	rmdir --ignore-fail-on-non-empty -- "$destdir$prefix" 2>/dev/null || true
}

if [ "$action" = uninstall ]; then
	[ -e "$list" ] || {
		echo "install.sh: there is no $list: nothing of Berth is installed below $destdir$prefix" >&2
		exit 1
	}
	remove
	exit 0
fi

# What an earlier release had and this one has not goes.
remove
mkdir -p "$home"
cd "$here/usr"
find . ! -type d ! -path './share/lintian/*' | sort | while read -r path; do
	path=${path#./}
	mkdir -p "$destdir$prefix/$(dirname "$path")"
	rm -f -- "$destdir$prefix/$path"
	case $path in
	lib/systemd/system/*)
		sed "s|/usr/bin/berth|$prefix/bin/berth|" "$path" >"$destdir$prefix/$path"
		chmod 644 "$destdir$prefix/$path"
		;;
	*) cp -P -p "$path" "$destdir$prefix/$path" ;;
	esac
	echo "$path" >>"$list"
done
# Somebody's own configuration stays.
cd "$here/etc"
find . -type f | sort | while read -r path; do
	path=${path#./}
	[ -e "$destdir$sysconfdir/$path" ] && continue
	mkdir -p "$destdir$sysconfdir/$(dirname "$path")"
	cp -p "$path" "$destdir$sysconfdir/$path"
done
mkdir -p "$destdir$sysconfdir/berth/berth.conf.d"
