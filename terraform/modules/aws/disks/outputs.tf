output "ids" {
  description = "Disks by machine."
  value       = { for machine, disk in aws_ebs_volume.data : machine => disk.id }
}
