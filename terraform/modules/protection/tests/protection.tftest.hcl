variables {
  machines  = { gpu-1 = "i-1", gpu-2 = "i-2" }
  protected = []
}

run "everything_may_go" {
  assert {
    condition     = output.protected == [] && length(terraform_data.free) == 2
    error_message = "a stand-in for each machine"
  }
}

run "protected_ones_are_told" {
  command = plan
  variables {
    machines  = { gpu-1 = "i-1", gpu-2 = "i-2", gpu-3 = "i-3" }
    protected = ["gpu-3"]
  }
  assert {
    condition     = output.protected == ["gpu-3"]
    error_message = "gpu-3 is protected"
  }
}
