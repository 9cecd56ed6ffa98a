#!/bin/busybox sh
# The first program of the guest: mounts the host's files under a layer that takes all writes, loads Bluetooth, and runs
# the command of `-fw_cmd`; its exit code goes to /out/exit. Nothing that happens here reaches the host's files.
B=/bin/busybox
die() { $B echo "guest: $1"; $B poweroff -f; }

$B mkdir -p /proc /sys /dev /host /packages /out /upper /root
$B mount -t proc proc /proc
$B mount -t sysfs sysfs /sys
$B mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
    $B insmod "$module" || $B echo "guest: $module is not loaded"
done
options=trans=virtio,version=9p2000.L,msize=512000
$B mount -t 9p -o ro,cache=loose,$options host /host || die "no files of the host"
$B mount -t 9p -o ro,cache=loose,$options packages /packages || die "no packages"
$B mount -t 9p -o $options out /out || die "no folder for results"
$B mount -t tmpfs -o mode=0755 upper /upper
$B mkdir /upper/new /upper/work
$B mount -t overlay -o lowerdir=/packages:/host,upperdir=/upper/new,workdir=/upper/work root /root || die "no overlay"
for folder in proc sys dev out; do
    $B mkdir -p /root/$folder
    $B mount -o bind /$folder /root/$folder
done
for folder in /tmp /run /dev/shm /dev/pts; do
    $B mkdir -p /root$folder
done
$B mount -t devpts devpts /root/dev/pts
$B mount -t tmpfs -o mode=1777 tmp /root/tmp
$B mount -t tmpfs -o mode=0755 run /root/run
$B mount -t tmpfs -o mode=1777 shm /root/dev/shm
$B mkdir -p /root/var/lib/bluetooth
$B mount -t tmpfs -o mode=0700 bonds /root/var/lib/bluetooth
$B rm -rf /root/var/run && $B ln -s /run /root/var/run
$B ip link set lo up
$B hostname guest
$B cut -d' ' -f1 /proc/uptime > /out/booted
# Through a pipe: programs that see a terminal draw on it.
{
    $B chroot /root /bin/sh /out/command
    $B echo $? > /out/exit
} 2>&1 | $B cat
$B sync
$B poweroff -f
