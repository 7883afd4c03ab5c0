output "ids" {
  description = "Disks by machine."
  value       = { for machine, disk in stackit_volume.data : machine => disk.volume_id }
}
