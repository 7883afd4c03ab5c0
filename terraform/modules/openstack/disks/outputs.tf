output "ids" {
  description = "Disks by machine."
  value       = { for machine, disk in openstack_blockstorage_volume_v3.data : machine => disk.id }
}
